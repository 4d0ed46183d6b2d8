//! What protects this machine from programs that models write.

use super::Finding;
use sandbox::{Config, Probe, Tier};

pub fn findings() -> [Finding; 2] {
    let probe = sandbox::probe(&Config::default());
    [isolation(&probe), languages(&probe)]
}

fn isolation(probe: &Probe) -> Finding {
    let text = |tier: &str| format!("tier {tier}: {}", probe.facts.join("; "));
    // the default policy accepts B- and better, so below that programs stay unscored
    let how = "unprivileged user namespaces are needed: `sysctl user.max_user_namespaces` above 0, \
               `kernel.unprivileged_userns_clone=1` (Debian), `kernel.apparmor_restrict_unprivileged_userns=0` (Ubuntu); in a \
               container: do not drop unshare and mount from its seccomp profile. Until then answers stay unscored";
    match probe.tier {
        None => Finding::bad("sandbox", probe.facts.join("; "), how),
        Some(t @ (Tier::D | Tier::C)) => Finding::bad("sandbox", text(&t.to_string()), how),
        Some(t) => Finding::ok("sandbox", text(&t.to_string())),
    }
    .facts(probe)
}

/// Languages besides Python matter only to sweeps that use them.
fn languages(probe: &Probe) -> Finding {
    let (have, lack): (Vec<_>, Vec<_>) = probe.languages.iter().partition(|(_, r)| r.is_ok());
    let names = |l: &[&(String, Result<String, String>)]| {
        l.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>().join(", ")
    };
    let text = match (have.is_empty(), lack.is_empty()) {
        (true, _) => "none can be executed".to_owned(),
        (_, true) => names(&have),
        _ => format!("{}; not here: {}", names(&have), names(&lack)),
    };
    if have.iter().any(|(n, _)| n.starts_with("python")) {
        Finding::ok("languages", text)
    } else {
        Finding::bad(
            "languages",
            text,
            "install python3: answers of the quickstart's models are Python programs",
        )
    }
    .facts(&probe.languages)
}
