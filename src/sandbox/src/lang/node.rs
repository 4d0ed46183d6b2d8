//! JavaScript by the machine's node.

use super::{Language, Toolchain, binds, first_line, on_path};
use crate::config::Config;
use slot::wire::Bind;
use std::path::Path;

pub(super) static LANGUAGE: Language = Language {
    name: "nodejs",
    aliases: &["node", "javascript", "js"],
    source: "main.js",
    find,
    reserve_mb: 1 << 20, // V8 reserves whole address ranges for its cages
    stack_mb: 8,
};

const INSIDE: &str = "/opt/node";

fn find(_: &Config) -> Result<Toolchain, String> {
    let program = on_path(Path::new("node")).ok_or("no node on PATH; install Node.js")?;
    let version = first_line(&program, &["--version"])?;
    let (inside, binds) = if binds::in_base(&program) {
        (program.to_string_lossy().into_owned(), Vec::new())
    } else {
        let inside = format!("{INSIDE}/node");
        let source = program.to_string_lossy().into_owned();
        (inside.clone(), vec![Bind { source, target: inside }])
    };
    Ok(Toolchain {
        binds,
        compile: None,
        run: vec![inside, "/prog/main.js".to_owned()],
        // The configuration of OpenSSL is not there in a slot, and must not be forbidden either (tier C).
        env: ["UV_USE_IO_URING=0", "OPENSSL_CONF=/dev/null"].map(str::to_owned).to_vec(),
        version: format!("node {version}"),
    })
}
