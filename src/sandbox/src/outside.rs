//! Slots without namespaces, from the supervisor's side: host paths in place of those of a slot's root.

use crate::config::Config;
use crate::lang::{self, Toolchain};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{AccessFlags, access};
use slot::wire::{Bind, How, Isolation};
use std::borrow::Cow;
use std::path::PathBuf;

/// Where slots make their directories.
///
/// # Errors
/// There is no place for them.
pub(crate) fn directory(config: &Config) -> Result<PathBuf, String> {
    if let Some(dir) = &config.directory {
        return usable(dir.clone());
    }
    let places =
        [Some("/dev/shm".into()), std::env::var_os("TMPDIR").map(PathBuf::from), Some("/tmp".into())];
    let mut why = Vec::new();
    for place in places.into_iter().flatten() {
        match usable(place) {
            Ok(dir) => return Ok(dir),
            Err(e) => why.push(e),
        }
    }
    Err(format!("no place for the slots' directories ({}); set BESSEMER_SANDBOX_DIR", why.join("; ")))
}

/// A directory that can be written to, and that programs can be run from.
fn usable(dir: PathBuf) -> Result<PathBuf, String> {
    let fail = |e: &dyn std::fmt::Display| format!("{}: {e}", dir.display());
    access(&dir, AccessFlags::W_OK | AccessFlags::X_OK).map_err(|e| fail(&e))?;
    let flags = statvfs(&dir).map_err(|e| fail(&e))?.flags();
    if flags.contains(FsFlags::ST_NOEXEC) {
        return Err(fail(&"mounted noexec"));
    }
    std::fs::canonicalize(&dir).map_err(|e| fail(&e))
}

/// The toolchain with the host's paths, where a slot's programs run on the host's root; or why it cannot be used so.
pub(crate) fn toolchain(name: &str, of: &Toolchain, isolation: Isolation) -> Result<Toolchain, String> {
    if isolation == Isolation::Filter && !lang::is_python(name) {
        return Err("tier D runs Python only: other programs have to open files to start".into());
    }
    let host = |text: &String| unbound(text, &of.binds);
    Ok(Toolchain {
        binds: of.binds.iter().map(|b| Bind { target: b.source.clone(), ..b.clone() }).collect(),
        compile: of.compile.as_ref().map(|argv| argv.iter().map(host).collect()),
        run: of.run.iter().map(host).collect(),
        env: of.env.iter().map(host).collect(),
        version: of.version.clone(),
    })
}

/// A word of a command, or a variable, with the place inside of a slot replaced by the one that it is a bind of.
fn unbound(text: &str, binds: &[Bind]) -> String {
    let (before, value) = text.split_once('=').map_or(("", text), |(name, v)| (&text[..=name.len()], v));
    let found = binds.iter().find_map(|b| {
        let rest = value.strip_prefix(b.target.as_str())?;
        (rest.is_empty() || rest.starts_with('/')).then(|| format!("{before}{}{rest}", b.source))
    });
    found.unwrap_or_else(|| text.to_owned())
}

/// The same start, with a slot's directory `root` in place of the root: `/prog`, `/work` and `/tmp` lie in it.
pub(crate) fn rooted<'a>(how: &'a How, root: &str) -> Cow<'a, How> {
    let How::Exec { argv, env } = how else { return Cow::Borrowed(how) };
    if root.is_empty() {
        return Cow::Borrowed(how);
    }
    Cow::Owned(How::Exec {
        argv: argv.iter().map(|word| slot::outside::rooted(word, root)).collect(),
        env: env.iter().map(|variable| slot::outside::rooted_variable(variable, root)).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_the_root_become_paths_of_the_host() {
        let words = |w: &[&str]| w.iter().map(|w| w.as_bytes().to_vec()).collect::<Vec<_>>();
        let how = How::Exec {
            argv: words(&["/usr/bin/gcc", "/prog/main.c", "-o", "/work/main", "/working", "-I/prog"]),
            env: words(&["HOME=/tmp", "PATH=/usr/bin:/bin", "X=/tmpfs"]),
        };
        let How::Exec { argv, env } = rooted(&how, "/s").into_owned() else { panic!("an exec") };
        assert_eq!(
            argv,
            words(&["/usr/bin/gcc", "/s/prog/main.c", "-o", "/s/work/main", "/working", "-I/prog"])
        );
        assert_eq!(env, words(&["HOME=/s/tmp", "PATH=/usr/bin:/bin", "X=/tmpfs"]));
        assert!(matches!(rooted(&how, ""), Cow::Borrowed(_)));
    }

    #[test]
    fn an_interpreter_that_is_bound_elsewhere_is_named_by_its_own_place() {
        let bind = Bind { source: "/home/u/conda".into(), target: "/opt/python".into() };
        let of = Toolchain {
            binds: vec![bind],
            compile: None,
            run: ["/opt/python/bin/python3", "-s", "/prog/main.py", "/opt/pythonic"]
                .map(str::to_owned)
                .to_vec(),
            env: vec!["LD_LIBRARY_PATH=/opt/python/lib".to_owned()],
            version: String::new(),
        };
        let there = toolchain("python", &of, Isolation::Filter).expect("Python runs everywhere");
        assert_eq!(there.run, ["/home/u/conda/bin/python3", "-s", "/prog/main.py", "/opt/pythonic"]);
        assert_eq!(there.env, ["LD_LIBRARY_PATH=/home/u/conda/lib"]);
        assert_eq!(there.binds[0].target, "/home/u/conda");
        assert!(toolchain("c", &of, Isolation::Filter).is_err());
        assert!(toolchain("c", &of, Isolation::Landlock).is_ok());
    }
}
