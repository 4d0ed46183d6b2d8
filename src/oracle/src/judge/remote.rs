//! A judge behind an OpenAI-compatible API: any URL, or a service task of the sweep.

use super::ask::{AskError, Asker, Said};
use generate::Message;
use record::params::OracleParams;
use serve::client::Patience;
use serve::{Chat, Client, ClientError, Endpoint};
use std::path::Path;
use std::time::Duration;

/// See the module's documentation.
pub struct Remote {
    client: Client,
    identity: String,
}

impl Remote {
    /// The judge that the declaration names by URL.
    ///
    /// # Errors
    /// A sentence: there is no URL, the token file cannot be read, or the server that has to name its model is away.
    pub fn of_url(params: &OracleParams) -> Result<Self, String> {
        let url = params.url.as_deref().ok_or(
            "it has no `url`: name an OpenAI-compatible server (http://HOST:PORT), or give the phase `services: \
             {judge: PHASE}`",
        )?;
        let url = url.trim_end_matches('/').trim_end_matches("/v1").to_owned();
        let token = params.token_file.as_ref().map(|file| {
            let text = std::fs::read_to_string(file)
                .map_err(|e| format!("cannot read the token file {file}: {e}"))?;
            Ok::<_, String>(text.trim().to_owned())
        });
        let token = token.transpose()?;
        let patience = patience(params);
        let model = match &params.model {
            Some(model) => model.clone(),
            None => Client::first_model(&url, token.as_deref(), &patience).map_err(|e| e.to_string())?,
        };
        // the place is not part of what decides: the same model elsewhere is the same judge
        let identity = format!("model {model}");
        Ok(Self { client: Client::of_url(Endpoint { url, token, model }, patience), identity })
    }

    /// The judge that a service task of the sweep is; `model` says which, for cache keys (its content key).
    #[must_use]
    pub fn of_service(task_dir: &Path, model: &str, params: &OracleParams) -> Self {
        Self {
            client: Client::of_service(task_dir, patience(params)),
            identity: format!("service model {model}"),
        }
    }

    /// A question asked between tries and while a service comes up; `true` ends the waiting: the judge is away then.
    #[must_use]
    pub fn stopping_when(mut self, stop: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        self.client = self.client.stopping_when(stop);
        self
    }
}

fn patience(params: &OracleParams) -> Patience {
    Patience { call: Duration::from_secs(u64::from(params.timeout_s.unwrap_or(120))), ..Patience::default() }
}

impl Asker for Remote {
    fn identity(&self) -> String {
        self.identity.clone()
    }

    fn ask(&self, prompt: &str, max_tokens: u32) -> Result<Said, AskError> {
        let chat = Chat {
            messages: vec![Message { role: "user".into(), content: prompt.to_owned() }],
            n: 1,
            temperature: 0.0,
            top_p: 1.0,
            max_tokens,
            seed: None,
            stop: Vec::new(), // a stop string that is a label hides the verdict (specs: PurpCode D2)
        };
        let reply = self.client.chat(&chat).map_err(|e| match e {
            ClientError::NotReady { .. } | ClientError::GaveUp { .. } | ClientError::Stopped => {
                AskError::Away(e.to_string())
            }
            // a wrong token or an unknown model is wrong for every row
            ClientError::Refused { status: 401 | 403 | 404, .. } => AskError::Away(e.to_string()),
            ClientError::Refused { .. } | ClientError::Malformed { .. } => AskError::Refused(e.to_string()),
        })?;
        let choice = reply.choices.into_iter().next();
        let choice = choice.ok_or_else(|| AskError::Refused("the answer has no choice".to_owned()))?;
        Ok(Said { text: choice.text, truncated: choice.truncated })
    }
}
