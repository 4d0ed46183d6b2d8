//! Python by exec of an interpreter of the machine.

use super::{Language, Toolchain, binds, first_line, on_path};
use crate::config::Config;
use slot::wire::Bind;
use std::path::Path;

pub(super) static LANGUAGE: Language = Language {
    name: "python",
    aliases: &["python3", "py"],
    source: "main.py",
    find,
    reserve_mb: 1024,
    stack_mb: 8,
};

/// Reads source text on stdin: exit status 0 when it parses and compiles, 1 when not.
///
/// Anything that the compiler raises means "does not compile": besides `SyntaxError` that is `ValueError` (NUL bytes),
/// `RecursionError`, `MemoryError` and `OverflowError` for nesting it cannot take.
pub(crate) const PARSE_SCRIPT: &str = "\
import sys, warnings
warnings.simplefilter('ignore')
source = sys.stdin.buffer.read()
try:
    compile(source, 'main.py', 'exec', dont_inherit=True)
except Exception as e:
    sys.stderr.write('%s: %s' % (type(e).__name__, e))
    sys.exit(1)
";

/// Where an interpreter that lives in somebody's home or in a module tree is seen inside.
const INSIDE: &str = "/opt/python";

fn find(config: &Config) -> Result<Toolchain, String> {
    let program = on_path(&config.python).ok_or_else(|| {
        format!("no Python interpreter {:?} on PATH; set `python` to the path of one", config.python)
    })?;
    // `_base_executable` leads out of a virtual environment.
    let script = "import sys,os;p=getattr(sys,'_base_executable',None) or sys.executable;\
                  print('\\t'.join([os.path.realpath(p),sys.base_prefix,'%d.%d.%d'%sys.version_info[:3]]))";
    let line = first_line(&program, &["-I", "-S", "-c", script])?;
    let fields: Vec<_> = line.split('\t').collect();
    let [executable, prefix, version] = fields[..] else {
        return Err(format!("{} did not describe itself: {line:?}", program.display()));
    };
    let (executable, prefix) = (Path::new(executable), Path::new(prefix));
    let mut env = vec!["PYTHONHASHSEED=0".to_owned(), "PYTHONDONTWRITEBYTECODE=1".to_owned()];
    let (inside, binds) = if binds::in_base(executable) {
        (executable.to_path_buf(), Vec::new())
    } else {
        let Ok(rest) = executable.strip_prefix(prefix) else {
            return Err(format!(
                "the interpreter {} lies outside of its prefix {}; name it by its real path",
                executable.display(),
                prefix.display()
            ));
        };
        env.push(format!("LD_LIBRARY_PATH={INSIDE}/lib"));
        let bind = Bind { source: prefix.to_string_lossy().into_owned(), target: INSIDE.to_owned() };
        (Path::new(INSIDE).join(rest), vec![bind])
    };
    let inside = inside.to_string_lossy().into_owned();
    Ok(Toolchain {
        binds,
        compile: None,
        run: [&inside, "-s", "-X", "utf8", "/prog/main.py"].map(str::to_owned).to_vec(),
        env,
        version: format!("CPython {version}"),
    })
}

/// Where the packages of a virtual environment are seen inside.
const PACKAGES: &str = "/opt/packages";

/// An interpreter that has this module, with the packages of the virtual environment that it may belong to.
///
/// # Errors
/// There is none at this path, or it does not have the module.
pub(crate) fn python_with(python: &Path, module: &str) -> Result<Toolchain, String> {
    let config = Config { python: python.to_owned(), ..Config::default() };
    let mut toolchain = find(&config)?;
    let program = on_path(python).ok_or_else(|| format!("{} is no program", python.display()))?;
    // The path as it was given: that of a virtual environment is a link to its base.
    let program = if python.is_absolute() { python.to_owned() } else { program };
    let script = "import sys,os,importlib.util as u;s=u.find_spec(sys.argv[1]);\
                  print(os.path.dirname(os.path.dirname(s.origin)) if s else '')";
    let dir = first_line(&program, &["-c", script, module])?;
    if dir.is_empty() {
        return Err(format!("{} has no module {module}", python.display()));
    }
    let dir = Path::new(&dir);
    if !binds::in_base(dir) && !toolchain.binds.iter().any(|b| dir.starts_with(&b.source)) {
        toolchain
            .binds
            .push(Bind { source: dir.to_string_lossy().into_owned(), target: PACKAGES.to_owned() });
        toolchain.env.push(format!("PYTHONPATH={PACKAGES}"));
    }
    Ok(toolchain)
}

/// argv and environment of the interpreter that becomes process 1 of a slot, with these modules imported besides the
/// usual ones.
pub(crate) fn zygote_command(toolchain: &Toolchain, modules: &[&str]) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    // `start` makes __main__ the program's: every name here has been looked up by then.
    let boot = "import os, sys; sys.path.insert(0, os.environ.get('BESSEMER_ROOT', '') + '/.zygote'); import zygote; zygote.load(); zygote.serve(*zygote.start())";
    let mut argv = toolchain.run.clone();
    argv.pop(); // the program's path
    argv.extend(["-c", boot].map(str::to_owned));
    argv.extend(modules.iter().map(|m| (*m).to_owned()));
    // Every symbol is looked up at the start, and not by each child again.
    let more = ["LD_BIND_NOW=1".to_owned()];
    let env =
        super::BASE_ENV.iter().map(|e| (*e).to_owned()).chain(toolchain.env.iter().cloned()).chain(more);
    (argv.into_iter().map(String::into_bytes).collect(), env.map(String::into_bytes).collect())
}

/// Whether an interpreter that left with status 1 did so because the main file does not compile: Python then prints
/// the error without the line that heads every traceback. (A program that imitates this only fails in another way.)
pub(crate) fn is_syntax_error(stderr: &[u8]) -> bool {
    let text = String::from_utf8_lossy(stderr);
    let last = text.trim_end().lines().last().unwrap_or_default();
    let kinds = ["SyntaxError", "IndentationError", "TabError"];
    let headed = text.contains("Traceback (most recent call last)");
    !headed && kinds.iter().any(|k| last == *k || last.starts_with(&format!("{k}: ")))
}

#[cfg(test)]
mod tests {
    use super::is_syntax_error;

    #[test]
    fn a_syntax_error_of_the_main_file_has_no_traceback_header() {
        assert!(is_syntax_error(b"  File \"/prog/main.py\", line 1\n    def\nSyntaxError: invalid syntax\n"));
        let raised = b"Traceback (most recent call last):\n  File \"x\"\nSyntaxError: mine\n";
        assert!(!is_syntax_error(raised));
        assert!(!is_syntax_error(b"ValueError: x\n"));
        assert!(!is_syntax_error(b""));
    }
}
