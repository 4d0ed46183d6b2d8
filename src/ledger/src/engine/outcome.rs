//! What a round of submissions did, for people and exit codes.

/// What a submission round did.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct SubmitReport {
    /// Attempts that the scheduler took in this call.
    pub submitted: u64,
    /// Submit commands that took.
    pub jobs: u64,
    /// Tasks that were live before.
    pub live: u64,
    /// Tasks that are done (or not needed).
    pub done: u64,
    /// Tasks that could go out but did not: run `submit` again.
    pub left: u64,
    /// Tasks that are over without success, and those that wait for them: (title, why).
    pub stuck: Vec<(String, String)>,
    /// Why the round ended early.
    pub stopped: Option<Stop>,
    /// Submissions whose fate is unknown; the next call looks them up.
    pub uncertain: u64,
    pub warnings: Vec<String>,
    /// Scheduler commands run.
    pub calls: u64,
}

/// Why a round of submissions ended early. The text is the scheduler's.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "why", content = "text", rename_all = "kebab-case")]
pub enum Stop {
    /// A limit is reached: nothing is wrong, try again when jobs have ended.
    Limit(String),
    /// The scheduler is not there.
    Unavailable(String),
    /// Nobody knows whether the last submission was accepted.
    Uncertain(String),
    /// Certainly refused: something in the job or site file is wrong.
    Refused(String),
}

impl SubmitReport {
    /// Exit code of `submit`: 75 when calling it again is what is needed, 65 when something must be mended first.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        match &self.stopped {
            Some(Stop::Refused(_)) => record::exit::USER_ERROR,
            Some(_) => record::exit::TRY_AGAIN,
            None if self.uncertain > 0 || self.left > 0 => record::exit::TRY_AGAIN,
            None => record::exit::DONE,
        }
    }
}
