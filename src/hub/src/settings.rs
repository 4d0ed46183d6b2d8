//! Where the Hub is, who we are, where its cache lies: the environment that `huggingface_hub` reads, read the same way.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A secret: nothing prints it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    secret: String,
    /// Where it came from, for sentences.
    pub from: String,
}

impl Token {
    #[must_use]
    pub fn new(secret: impl Into<String>, from: impl Into<String>) -> Self {
        Self { secret: secret.into(), from: from.into() }
    }

    pub(crate) fn secret(&self) -> &str {
        &self.secret
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token(from {})", self.from)
    }
}

/// Everything that the environment decides.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Without a slash at the end.
    pub endpoint: String,
    /// `.../hub`: where the repositories lie.
    pub cache: PathBuf,
    pub token: Option<Token>,
    /// `HF_HUB_OFFLINE`
    pub offline: bool,
    /// First wait before a request is repeated; doubles. A server's `Retry-After` counts more.
    pub patience: Duration,
}

const ENDPOINT: &str = "https://huggingface.co";

impl Settings {
    /// Reads the environment; `env` gives a variable.
    #[must_use]
    pub fn from_env(env: impl Fn(&str) -> Option<String>) -> Self {
        let get = |name: &str| env(name).map(|v| v.trim().to_owned()).filter(|v| !v.is_empty());
        let endpoint = get("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
        let home = home(&get);
        let token = ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"]
            .into_iter()
            .find_map(|name| Some(Token::new(get(name)?, name)))
            .or_else(|| {
                let path = get("HF_TOKEN_PATH").map_or_else(|| home.join("token"), PathBuf::from);
                token_in(&path)
            });
        let offline = get("HF_HUB_OFFLINE")
            .is_some_and(|v| ["1", "ON", "YES", "TRUE"].contains(&v.to_ascii_uppercase().as_str()));
        Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            cache: cache(&get),
            token,
            offline,
            patience: Duration::from_secs(1),
        }
    }
}

fn token_in(path: &Path) -> Option<Token> {
    let text = std::fs::read_to_string(path).ok()?;
    let secret = text.trim();
    (!secret.is_empty()).then(|| Token::new(secret, path.display().to_string()))
}

fn home(get: &impl Fn(&str) -> Option<String>) -> PathBuf {
    if let Some(home) = get("HF_HOME") {
        return tilde(&home, get);
    }
    let base = get("XDG_CACHE_HOME").map(|x| tilde(&x, get));
    base.unwrap_or_else(|| PathBuf::from(get("HOME").unwrap_or_else(|| "/".into())).join(".cache"))
        .join("huggingface")
}

/// The directory of the Hub's repositories: `HF_HUB_CACHE`, else `$HF_HOME/hub`, else below the user's cache.
#[must_use]
pub fn cache(get: &impl Fn(&str) -> Option<String>) -> PathBuf {
    match get("HF_HUB_CACHE").or_else(|| get("HUGGINGFACE_HUB_CACHE")) {
        Some(path) => tilde(&path, get),
        None => home(get).join("hub"),
    }
}

fn tilde(path: &str, get: &impl Fn(&str) -> Option<String>) -> PathBuf {
    match (path.strip_prefix("~/"), get("HOME")) {
        (Some(rest), Some(home)) => PathBuf::from(home).join(rest),
        _ => PathBuf::from(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(vars: &[(&str, &str)]) -> Settings {
        Settings::from_env(|name| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
    }

    #[test]
    fn the_cache_is_where_transformers_looks() {
        assert_eq!(with(&[("HOME", "/h")]).cache, Path::new("/h/.cache/huggingface/hub"));
        assert_eq!(with(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]).cache, Path::new("/x/huggingface/hub"));
        assert_eq!(with(&[("HOME", "/h"), ("HF_HOME", "~/hf")]).cache, Path::new("/h/hf/hub"));
        assert_eq!(with(&[("HF_HOME", "/a"), ("HF_HUB_CACHE", "/b")]).cache, Path::new("/b"));
        assert_eq!(with(&[("HF_ENDPOINT", "http://127.0.0.1:1/")]).endpoint, "http://127.0.0.1:1");
        assert!(with(&[("HF_HUB_OFFLINE", "1")]).offline && !with(&[("HF_HUB_OFFLINE", "0")]).offline);
    }

    #[test]
    fn a_token_comes_from_the_environment_or_its_file_and_is_never_printed() {
        let s = with(&[("HF_TOKEN", " hf_secret\n")]);
        assert_eq!(s.token.as_ref().unwrap().secret(), "hf_secret");
        assert!(!format!("{s:?}").contains("hf_secret"));
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("token"), "hf_file\n").unwrap();
        let s = with(&[("HF_HOME", dir.path().to_str().unwrap())]);
        assert_eq!(s.token.unwrap().secret(), "hf_file");
    }
}
