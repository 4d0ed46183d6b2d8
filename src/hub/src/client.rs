//! The Hub's protocol: what is in a repository, and its files by byte ranges.

use crate::error::{HubError, Result, named};
use crate::settings::Settings;
use record::source::{HubRef, Repo, is_commit};
use serde::Deserialize;
use std::io::Read;
use std::time::Duration;
use ureq::http::{HeaderMap, Response};
use ureq::{Agent, Body};

/// A file of a repository, as the Hub describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileInfo {
    pub path: String,
    pub bytes: Option<u64>,
    /// What the blob is called: SHA-256 of the content (large files), else the Git hash.
    pub etag: Option<String>,
}

impl FileInfo {
    /// A file of which nothing but its name is known.
    #[must_use]
    pub fn named(path: &str) -> Self {
        Self { path: path.to_owned(), bytes: None, etag: None }
    }
}

/// A repository at one commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoInfo {
    pub commit: String,
    pub files: Vec<FileInfo>,
}

/// What a file's first answer says about it, and its content from the asked byte on.
pub(crate) struct Opened {
    pub etag: Option<String>,
    /// Bytes of the whole file.
    pub bytes: Option<u64>,
    /// The content begins at this byte: 0 where the server does not know ranges.
    pub from: u64,
    pub body: Box<dyn Read + Send>,
}

/// A connection to one endpoint.
#[derive(Debug, Clone)]
pub struct Client {
    pub settings: Settings,
    agent: Agent,
}

/// Tries of one request that may succeed a little later.
const TRIES: u32 = 5;
/// Longest wait between two, whatever the server asks.
const MOST_WAIT: Duration = Duration::from_secs(60);
const REDIRECTS: usize = 10;

impl Client {
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let config = Agent::config_builder()
            .user_agent(concat!("bessemer/", env!("CARGO_PKG_VERSION")))
            // redirects are followed here: the first answer has the file's hash, and the token stays with the endpoint
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .timeout_resolve(Some(Duration::from_secs(20)))
            .timeout_connect(Some(Duration::from_secs(20)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            // a connection that stalls is cut here and continued with a range
            .timeout_per_read(Some(Duration::from_secs(60)))
            .build();
        Self { settings, agent: config.into() }
    }

    /// What a repository has at a revision.
    ///
    /// # Errors
    /// Everything of [`HubError`] that a server can cause.
    pub fn info(&self, of: &HubRef) -> Result<RepoInfo> {
        #[derive(Deserialize)]
        struct Lfs {
            sha256: Option<String>,
            oid: Option<String>,
            size: Option<u64>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Sibling {
            rfilename: String,
            size: Option<u64>,
            blob_id: Option<String>,
            lfs: Option<Lfs>,
        }
        #[derive(Deserialize)]
        struct Info {
            sha: String,
            #[serde(default)]
            siblings: Vec<Sibling>,
        }
        let kind = match of.repo {
            Repo::Model => "models",
            Repo::Dataset => "datasets",
        };
        let url = format!(
            "{}/api/{kind}/{}/revision/{}?blobs=true",
            self.settings.endpoint,
            encode(&of.id, true),
            encode(&of.revision, false)
        );
        let protocol = |why: String| HubError::Protocol { url: url.clone(), why };
        let text = self.patiently(|| {
            let mut response = self.get(&url, of, None)?.1;
            let limit = response.body_mut().with_config().limit(256 << 20);
            limit.read_to_string().map_err(|e| self.network(&e.to_string()))
        })?;
        let info: Info = serde_json::from_str(&text)
            .map_err(|e| protocol(format!("the answer is not the hub's ({e}): is HF_ENDPOINT right?")))?;
        if !is_commit(&info.sha) {
            return Err(protocol(format!("the answer names no commit, but {:?}", info.sha)));
        }
        let files = info.siblings.into_iter().map(|s| FileInfo {
            path: s.rfilename,
            bytes: s.lfs.as_ref().and_then(|l| l.size).or(s.size),
            etag: s.lfs.and_then(|l| l.sha256.or(l.oid)).or(s.blob_id).filter(|e| is_etag(e)),
        });
        Ok(RepoInfo { commit: info.sha, files: files.collect() })
    }

    /// A file's content from byte `from` on. `of` must be at a commit.
    pub(crate) fn open(&self, of: &HubRef, file: &str, from: u64) -> Result<Opened> {
        let kind = if of.repo == Repo::Dataset { "datasets/" } else { "" };
        let url = format!(
            "{}/{kind}{}/resolve/{}/{}",
            self.settings.endpoint,
            encode(&of.id, true),
            of.revision,
            encode(file, true)
        );
        let (first, last) = match self.get(&url, of, (from > 0).then_some(from)) {
            Err(HubError::NoRepo { .. }) => {
                return Err(HubError::NoFile { what: named(of), file: file.to_owned() });
            }
            other => other?,
        };
        let header = |name: &str| text(&first, name).or_else(|| text(last.headers(), name));
        if let Some(commit) = header("x-repo-commit").filter(|c| *c != of.revision) {
            let why = format!("the server answered with commit {commit} instead of {}", of.revision);
            return Err(HubError::Protocol { url, why });
        }
        let etag = header("x-linked-etag").or_else(|| header("etag"));
        let etag =
            etag.map(|e| e.trim_start_matches("W/").trim_matches('"').to_owned()).filter(|e| is_etag(e));
        let partial = last.status().as_u16() == 206;
        let range = text(last.headers(), "content-range");
        let begins = range.as_deref().and_then(|r| r.strip_prefix("bytes ")?.split('-').next()?.parse().ok());
        let whole = range.as_deref().and_then(|r| r.rsplit('/').next()?.parse().ok());
        let length = text(last.headers(), "content-length").and_then(|l| l.parse::<u64>().ok());
        let from = match (partial, begins) {
            (false, _) => 0,
            (true, Some(begins)) => begins,
            (true, None) => {
                return Err(HubError::Protocol { url, why: "a part without Content-Range".into() });
            }
        };
        let linked = text(&first, "x-linked-size").and_then(|s| s.parse().ok());
        Ok(Opened {
            etag,
            bytes: linked.or(whole).or_else(|| length.map(|l| l + from)),
            from,
            body: Box::new(last.into_body().into_reader()),
        })
    }

    /// Follows redirects; the headers of the first answer and the last answer. The token goes to the endpoint alone.
    fn get(&self, url: &str, of: &HubRef, from: Option<u64>) -> Result<(HeaderMap, Response<Body>)> {
        if self.settings.offline {
            return Err(HubError::Offline);
        }
        let mut url = url.to_owned();
        let mut first = None;
        for _ in 0..REDIRECTS {
            let mut request = self.agent.get(&url);
            if let Some(token) = &self.settings.token
                && origin(&url) == origin(&self.settings.endpoint)
            {
                request = request.header("authorization", format!("Bearer {}", token.secret()));
            }
            if let Some(from) = from {
                request = request.header("range", format!("bytes={from}-"));
            }
            let response = request.call().map_err(|e| self.network(&e.to_string()))?;
            let status = response.status().as_u16();
            if status >= 400 {
                return Err(self.refusal(of, &url, response));
            }
            let first_headers = first.get_or_insert_with(|| response.headers().clone());
            if !(300..400).contains(&status) {
                return Ok((first_headers.clone(), response));
            }
            let to = text(response.headers(), "location").ok_or_else(|| HubError::Protocol {
                url: url.clone(),
                why: format!("status {status} without a Location"),
            })?;
            url = absolute(&url, &to);
        }
        Err(HubError::Protocol { url, why: format!("more than {REDIRECTS} redirects") })
    }

    /// What a refusal means.
    fn refusal(&self, of: &HubRef, url: &str, mut response: Response<Body>) -> HubError {
        let header = |name: &str| text(response.headers(), name).unwrap_or_default();
        let (status, code) = (response.status().as_u16(), header("x-error-code"));
        let (endpoint, what) = (self.settings.endpoint.clone(), named(of));
        let kind = if of.repo == Repo::Dataset { "datasets/" } else { "" };
        let page = format!("{endpoint}/{kind}{}", of.id);
        let token_from = self.settings.token.as_ref().map(|t| t.from.clone());
        let wait = header("retry-after").parse().ok();
        let said = header("x-error-message");
        match (status, code.as_str()) {
            (_, "GatedRepo") => HubError::Gated {
                what,
                page,
                hint: if token_from.is_some() {
                    ""
                } else {
                    " (no token is set: hf auth login, or HF_TOKEN)"
                },
            },
            (_, "RevisionNotFound") => HubError::NoRevision {
                what: page.clone(),
                revision: of.revision.clone(),
                page: format!("{page}/tree/main"),
            },
            (404, "EntryNotFound") => {
                HubError::NoFile { what, file: url.rsplit("/resolve/").next().unwrap_or(url).to_owned() }
            }
            (401, _) => match token_from {
                Some(token_from) if code != "RepoNotFound" => {
                    HubError::BadToken { endpoint, what, token_from }
                }
                Some(_) => HubError::NoRepo { endpoint, repo: of.repo, id: of.id.clone() },
                None => HubError::WhoAreYou { endpoint, what },
            },
            (403, _) => HubError::Gated { what, page, hint: "" },
            (404, _) => HubError::NoRepo { endpoint, repo: of.repo, id: of.id.clone() },
            (429, _) => HubError::TooMany { endpoint, wait },
            _ => {
                let body = response.body_mut().with_config().limit(4096).read_to_string().unwrap_or_default();
                let said = if said.is_empty() { body.chars().take(200).collect() } else { said };
                HubError::Status { url: bare(url), status, said }
            }
        }
    }

    pub(crate) fn network(&self, why: &str) -> HubError {
        HubError::Network { endpoint: self.settings.endpoint.clone(), why: why.to_owned() }
    }

    /// Repeats what may succeed a little later.
    pub(crate) fn patiently<T>(&self, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
        let mut tries = 0;
        loop {
            match attempt() {
                Err(e) if e.passes() && tries + 1 < TRIES => {
                    tries += 1;
                    self.wait(tries, &e);
                }
                other => return other,
            }
        }
    }

    /// Waits before try number `tries` + 1.
    pub(crate) fn wait(&self, tries: u32, why: &HubError) {
        let asked = match why {
            HubError::TooMany { wait, .. } => wait.map(Duration::from_secs),
            _ => None,
        };
        let own = self.settings.patience.saturating_mul(1 << tries.saturating_sub(1).min(6));
        std::thread::sleep(asked.unwrap_or(own).min(MOST_WAIT));
    }
}

/// Hashes as hexadecimal digits: nothing else may become the name of a blob.
fn is_etag(etag: &str) -> bool {
    matches!(etag.len(), 40 | 64) && etag.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned)
}

/// Scheme, host and port.
fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |i| i + 3);
    let end = url[host..].find(['/', '?']).map_or(url.len(), |i| host + i);
    &url[..end]
}

fn absolute(base: &str, to: &str) -> String {
    if to.contains("://") {
        return to.to_owned();
    }
    if let Some(rest) = to.strip_prefix("//") {
        let scheme = base.split("://").next().unwrap_or("https");
        return format!("{scheme}://{rest}");
    }
    if to.starts_with('/') {
        return format!("{}{to}", origin(base));
    }
    let path = base.split('?').next().unwrap_or(base);
    format!("{}/{to}", path.rsplit_once('/').map_or(path, |(dir, _)| dir))
}

/// Without its query: signed links are as good as passwords.
fn bare(url: &str) -> String {
    url.split('?').next().unwrap_or(url).to_owned()
}

/// Percent-encodes everything but unreserved characters.
fn encode(text: &str, slashes: bool) -> String {
    use std::fmt::Write;
    text.bytes().fold(String::with_capacity(text.len()), |mut out, b| {
        if b.is_ascii_alphanumeric() || b"-._~".contains(&b) || (slashes && b == b'/') {
            out.push(char::from(b));
        } else {
            let _ = write!(out, "%{b:02X}");
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_made_absolute_and_the_token_stays_with_the_endpoint() {
        assert_eq!(absolute("https://h:1/a/b?c", "/x"), "https://h:1/x");
        assert_eq!(absolute("https://h/a/b", "c"), "https://h/a/c");
        assert_eq!(absolute("https://h/a", "http://other/x"), "http://other/x");
        assert_eq!(absolute("https://h/a", "//cdn/x"), "https://cdn/x");
        assert_ne!(origin("https://hub.example.org/x"), origin("https://hub.example.org.evil/x"));
        assert_ne!(origin("https://h:1/x"), origin("https://h:2/x"));
        assert_eq!(encode("refs/pr/1", false), "refs%2Fpr%2F1");
        assert_eq!(encode("a b/ü#.json", true), "a%20b/%C3%BC%23.json");
    }

    #[test]
    fn only_hashes_become_names_of_blobs() {
        assert!(is_etag(&"a".repeat(40)) && is_etag(&"0".repeat(64)));
        assert!(!is_etag("../../x") && !is_etag(&"A".repeat(40)) && !is_etag(""));
    }
}
