//! Words for the shell.

/// `text` as one single-quoted word of bash; the only form in which data enters a script.
#[must_use]
pub fn sh(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The value of an `#SBATCH` option. Slurm, not bash, splits that line: it knows double quotes and backslashes, and
/// expands `%` in file names.
pub(super) fn sbatch_path(path: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./-".contains(c);
    let doubled = path.replace('%', "%%");
    if doubled.chars().all(plain) {
        return doubled;
    }
    let mut out = String::from("\"");
    for c in doubled.chars() {
        if c == '"' || c == '\\' {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    out
}
