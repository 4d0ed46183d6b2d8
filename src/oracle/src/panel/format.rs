//! The response contract as an oracle.

use super::{Oracle, Subject};
use crate::format::check;
use crate::judge::Mode;
use crate::verdict::Scored;
use record::params::OracleParams;

pub(super) struct FormatOracle {
    mode: Mode,
}

impl FormatOracle {
    pub(super) fn new(params: &OracleParams) -> Self {
        Self { mode: params.reading.unwrap_or_default().into() }
    }
}

impl Oracle for FormatOracle {
    fn identity(&self) -> String {
        format!("response contract {:?}", self.mode)
    }

    fn score(&mut self, name: &str, subjects: &[Subject<'_>]) -> Vec<Scored> {
        subjects
            .iter()
            .map(|s| match s.response.map(|r| check(r, self.mode)) {
                None => Scored::unscored(name, "the row has no `response`: there is no format to check"),
                Some(Ok(_)) => Scored::of(name, 1.0, "the contract holds"),
                Some(Err(violation)) => Scored::of(name, 0.0, violation.to_string()),
            })
            .collect()
    }
}
