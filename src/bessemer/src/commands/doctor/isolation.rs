//! What protects this machine from programs that models write.

use super::Finding;
use sandbox::{Config, Probe, Tier};

pub fn findings() -> [Finding; 2] {
    let probe = sandbox::probe(&Config::default());
    if let Some(mistake) = Tier::mistyped() {
        let how =
            "correct the variable, in the site's set-up lines too, or unset it: until then nothing is judged";
        return [Finding::bad("sandbox", mistake, how), languages(&probe)];
    }
    [isolation(&probe), languages(&probe)]
}

fn isolation(probe: &Probe) -> Finding {
    let text = |tier: &str| format!("tier {tier}: {}", probe.facts.join("; "));
    let how = "unprivileged user namespaces are needed: `sysctl user.max_user_namespaces` above 0, \
               `kernel.unprivileged_userns_clone=1` (Debian), `kernel.apparmor_restrict_unprivileged_userns=0` (Ubuntu); in a \
               container: do not drop unshare and mount from its seccomp profile. Until then answers stay unscored, unless a \
               weaker tier is accepted (BESSEMER_TIER_MIN=C or D)";
    let weaker = "accepted by BESSEMER_TIER_MIN. Programs that need processes, or files of the machine, stay unscored; \
                  docs/SANDBOX.md says what else a weaker tier does not hold";
    let accepted = Config::default().tier_min;
    match probe.tier {
        None => Finding::bad("sandbox", probe.facts.join("; "), how),
        Some(t) if t < accepted => Finding::bad("sandbox", text(&t.to_string()), how),
        Some(t @ (Tier::D | Tier::C)) => Finding::warn("sandbox", text(&t.to_string()), weaker),
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
