//! Reading a JSON request field by field, so that every refusal names its parameter as OpenAI's servers do.

use serde_json::{Map, Value};

/// A refusal in OpenAI's error format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub status: u16,
    pub message: String,
    pub kind: &'static str,
    pub param: Option<String>,
    pub code: Option<&'static str>,
}

impl ApiError {
    pub fn bad(param: &str, message: impl Into<String>) -> Self {
        Self {
            status: 400,
            message: message.into(),
            kind: "invalid_request_error",
            param: Some(param.to_owned()),
            code: None,
        }
    }

    pub fn new(status: u16, kind: &'static str, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), kind, param: None, code: Some(code) }
    }

    pub fn body(&self) -> Value {
        serde_json::json!({"error": {
            "message": self.message, "type": self.kind, "param": self.param, "code": self.code,
        }})
    }
}

/// The fields of a request that nobody has taken yet.
pub(crate) struct Fields(Map<String, Value>);

impl Fields {
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(map)) => Ok(Self(map)),
            Ok(_) => Err(ApiError::bad("body", "the request body must be a JSON object")),
            Err(e) => Err(ApiError::bad("body", format!("the request body is not valid JSON: {e}"))),
        }
    }

    /// Takes a field; `null` counts as absent.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name).filter(|v| !v.is_null())
    }

    pub fn number(
        &mut self,
        name: &str,
        range: std::ops::RangeInclusive<f64>,
    ) -> Result<Option<f64>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let wanted = || {
            ApiError::bad(name, format!("{name} must be a number from {} to {}", range.start(), range.end()))
        };
        let number = value.as_f64().ok_or_else(wanted)?;
        if range.contains(&number) { Ok(Some(number)) } else { Err(wanted()) }
    }

    pub fn integer(
        &mut self,
        name: &str,
        range: std::ops::RangeInclusive<u64>,
    ) -> Result<Option<u64>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        value.as_u64().filter(|n| range.contains(n)).map(Some).ok_or_else(|| {
            ApiError::bad(
                name,
                format!("{name} must be an integer from {} to {}", range.start(), range.end()),
            )
        })
    }

    pub fn flag(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| ApiError::bad(name, format!("{name} must be true or false")))
    }

    pub fn text(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s)),
            Some(_) => Err(ApiError::bad(name, format!("{name} must be a string"))),
        }
    }

    /// A field that this server cannot honour: only its neutral value passes.
    pub fn only(&mut self, name: &str, neutral: &[Value]) -> Result<(), ApiError> {
        match self.take(name) {
            Some(v) if !neutral.contains(&v) => {
                Err(ApiError::bad(name, format!("{name} is not supported by this server")))
            }
            _ => Ok(()),
        }
    }

    /// Refuses whatever is left: a parameter that is silently ignored changes results without a trace.
    pub fn finish(mut self) -> Result<(), ApiError> {
        for harmless in ["user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"]
        {
            self.0.remove(harmless);
        }
        match self.0.iter().find(|(_, v)| !v.is_null()) {
            Some((name, _)) => Err(ApiError::bad(name, format!("unrecognized request argument: {name}"))),
            None => Ok(()),
        }
    }
}
