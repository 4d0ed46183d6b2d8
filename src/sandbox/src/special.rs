//! Slots whose warm interpreter has more imported than the others': the profiles `numpy` and `pytest`.
//!
//! The interpreter is one that the site names ([`crate::Config::numpy`], [`crate::Config::pytest`]), often that of a
//! virtual environment. Its packages are visible in these slots only.

use crate::config::{Config, SandboxError};
use crate::helper;
use crate::job::{Job, Mode, Profile};
use crate::lang::{self, Toolchain};
use crate::pool::isolates_alike;
use crate::slot_handle::{Share, SlotHandle};
use slot::wire::{Hello, Isolation, Setup};
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// How slots of one profile are built.
pub(crate) struct Special {
    setup: Result<Arc<Setup>, String>,
    /// What the first slot of it said of itself; later ones must say the same.
    hello: OnceLock<Hello>,
}

/// The two of them.
pub(crate) struct Specials {
    numpy: Special,
    pytest: Special,
}

/// Slots of the profiles, in one place to run a job. Started when they are first needed.
#[derive(Default)]
pub(crate) struct SpecialSlots {
    pub numpy: Option<SlotHandle>,
    pub numpy_tester: Option<SlotHandle>,
    pub pytest: Option<SlotHandle>,
}

impl Special {
    fn new(config: &Config, base: &Setup, python: Option<&Path>, module: &str, variable: &str) -> Self {
        let setup = match python {
            None => Err(format!(
                "the profile `{module}` needs an interpreter that has {module}: set {variable} to the path of one"
            )),
            Some(_) if !config.warm_python => Err("warm interpreters are switched off by the caller".into()),
            Some(_) if module == "pytest" && base.isolation == Isolation::Filter => {
                Err("tier D cannot run the real pytest, which opens files; plain test functions run".into())
            }
            Some(python) => lang::python_with(python, module)
                .and_then(|t| match base.isolation {
                    Isolation::Namespaces => Ok(t),
                    outside => crate::outside::toolchain("python", &t, outside),
                })
                .map(|t| Arc::new(warm(base, &t, &[module]))),
        };
        Self { setup, hello: OnceLock::new() }
    }

    /// Starts a slot.
    fn start(&self, first: &Hello, runs: u64, share: &Share) -> Result<SlotHandle, String> {
        let setup = self.setup.as_ref().map_err(Clone::clone)?;
        let slot = SlotHandle::start(setup, runs, share).map_err(|e: SandboxError| e.to_string())?;
        // The isolation of the first slot of all; the interpreter is another one.
        let known =
            self.hello.get_or_init(|| Hello { interpreter: slot.hello.interpreter.clone(), ..first.clone() });
        if isolates_alike(&slot.hello, known) {
            Ok(slot)
        } else {
            Err("a new slot does not isolate as the first one does".into())
        }
    }
}

impl Specials {
    pub fn new(config: &Config, base: &Setup) -> Self {
        Self {
            numpy: Special::new(config, base, config.numpy.as_deref(), "numpy", "BESSEMER_NUMPY_PYTHON"),
            pytest: Special::new(config, base, config.pytest.as_deref(), "pytest", "BESSEMER_PYTEST_PYTHON"),
        }
    }

    /// Each profile's name, and why it cannot be had here.
    pub fn names(&self) -> [(&'static str, Result<(), &str>); 2] {
        [("numpy", &self.numpy), ("pytest", &self.pytest)]
            .map(|(name, s)| (name, s.setup.as_ref().map(|_| ()).map_err(String::as_str)))
    }

    /// Starts the slots that the job's profile needs.
    pub fn prepare(
        &self,
        job: &Job,
        slots: &mut SpecialSlots,
        first: &Hello,
        runs: u64,
        share: &Share,
    ) -> Result<(), String> {
        let need = |slot: &mut Option<SlotHandle>, special: &Special, share: &Share| {
            if slot.is_none() {
                *slot = Some(special.start(first, runs, share)?);
            }
            Ok::<(), String>(())
        };
        match job.profile {
            Profile::Numpy => {
                need(&mut slots.numpy, &self.numpy, share)?;
                if job.needs_tester() {
                    need(&mut slots.numpy_tester, &self.numpy, &share.of_tests())?;
                }
            }
            Profile::Pytest if matches!(job.mode, Mode::Pytest { .. }) => {
                need(&mut slots.pytest, &self.pytest, &share.of_tests())?;
            }
            Profile::Pytest => return Err("the profile `pytest` is for jobs of mode `pytest`".into()),
            Profile::Multi | Profile::Solo => {}
        }
        if job.profile != Profile::Multi && job.profile != Profile::Solo && !lang::is_python(&job.language) {
            return Err("the profiles `numpy` and `pytest` are for Python".into());
        }
        Ok(())
    }
}

/// A setup with an interpreter as process 1 that has these modules imported.
pub(crate) fn warm(base: &Setup, python: &Toolchain, modules: &[&str]) -> Setup {
    let mut setup = base.clone();
    // This interpreter's place may be that of another one.
    setup.binds.retain(|b| python.binds.iter().all(|mine| mine.target != b.target));
    setup.binds.extend(python.binds.iter().cloned());
    setup.files.extend(helper::zygote_files());
    (setup.zygote_argv, setup.zygote_env) = lang::zygote_command(python, modules);
    setup.zygote_env.extend(match base.isolation {
        Isolation::Namespaces => None,
        Isolation::Landlock => Some(b"BESSEMER_SHUT=processes".to_vec()),
        Isolation::Filter => Some(b"BESSEMER_SHUT=files".to_vec()),
    });
    setup
}
