//! Words for the shell.

/// `text` as one single-quoted word of bash; the only form in which data enters a script.
#[must_use]
pub fn sh(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The value of an `#SBATCH` option. Slurm, not bash, splits that line: it knows double quotes and backslashes.
pub(super) fn sbatch_word(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./-".contains(c);
    if value.chars().all(plain) {
        return value.to_owned();
    }
    format!("\"{}\"", value.replace('\\', r"\\").replace('"', "\\\""))
}
