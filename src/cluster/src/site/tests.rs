use super::*;

const LEAST: &str = "bessemer_site: 1\nname: x\nscheduler: slurm\n";

fn errors(text: &str) -> String {
    Site::load(Path::new("s.yaml"), text).expect_err("must be refused").to_string()
}

#[test]
fn the_least_site_has_polite_defaults() {
    let site = Site::load(Path::new("s.yaml"), LEAST).unwrap();
    assert_eq!(site.limits.min_poll, Seconds(60));
    assert_eq!(site.timeouts.submit, Seconds(150));
    assert_eq!(site.export, Export::None);
    assert!(!site.requeue && !site.kill_on_invalid_dep);
    assert_eq!(site.gpu.spelling, GpuSpelling::Gres);
}

#[test]
fn mistakes_have_a_place_and_a_suggestion() {
    let e = errors(&format!("{LEAST}partitoin: gpu\n"));
    assert!(e.starts_with("s.yaml:4:1: ") && e.contains("did you mean `partition`"), "{e}");
    let e = errors(&format!("{LEAST}limits:\n  walltime: 24\n"));
    assert!(e.starts_with("s.yaml:5:13: ") && e.contains("24h"), "{e}");
    let e = errors(&format!("{LEAST}limits:\n  memory: 16 bananas\n"));
    assert!(e.starts_with("s.yaml:5:11: ") && e.contains("16GB"), "{e}");
    let e = errors(&format!("{LEAST}gpu:\n  spelling: grse\n"));
    assert!(e.contains("s.yaml:5:") && e.contains("did you mean `gres`"), "{e}");
    let e = errors(&format!("{LEAST}patterns:\n  limit: ['(']\n"));
    assert!(e.contains("s.yaml:5:") && e.contains("no regular expression"), "{e}");
    let e = errors("bessemer_site: 1\nname: x\n");
    assert!(e.contains("scheduler"), "{e}");
    let e = errors(&format!("{LEAST}name: again\n"));
    assert!(e.starts_with("s.yaml:4:1: ") && e.contains("duplicate"), "{e}");
}

#[test]
fn contradictions_are_all_reported_with_their_places() {
    let e = errors("bessemer_site: 2\nname: x\nscheduler: pbs\nextra:\n  - -N mine\n");
    let lines: Vec<&str> = e.lines().collect();
    assert_eq!(lines.len(), 3, "{e}");
    assert!(lines[0].starts_with("s.yaml:1:1: ") && lines[0].contains("update bessemer"));
    assert!(lines[1].starts_with("s.yaml:3:1: ") && lines[1].contains("flavor: torque"));
    assert!(lines[2].starts_with("s.yaml:4:1: ") && lines[2].contains("job name"));
}

#[test]
fn options_that_break_the_contract_are_refused_and_others_pass() {
    let slurm = |o: &str| check_extra(Scheduler::Slurm, o);
    for bad in [
        "--job-name=x",
        "-Jx",
        "-J x",
        "--array=1-3",
        "--time=5",
        "-t5",
        "--wrap=true",
        "nodes",
        "-",
        "--a\n",
    ] {
        assert!(slurm(bad).is_err(), "{bad}");
    }
    for good in
        ["--constraint=v100&nvlink", "-C v100", "--mem=0", "--reservation=r", "--exclusive", "--nodelist=n1"]
    {
        assert_eq!(slurm(good), Ok(()), "{good}");
    }
    let pbs = |o: &str| check_extra(Scheduler::Pbs, o);
    assert!(pbs("-W depend=afterok:1").is_err() && pbs("-V").is_err() && pbs("-Nx").is_err());
    assert!(pbs("-W group_list=g").is_ok() && pbs("-l place=excl").is_ok() && pbs("-P proj").is_ok());
}

#[test]
fn lengths_of_time_and_memory_are_read_with_their_units() {
    for (text, s) in [("90s", 90), ("30m", 1800), ("1d12h", 129_600), ("36:00:00", 129_600), ("0s", 0)] {
        assert_eq!(Seconds::parse(text), Ok(Seconds(s)), "{text}");
    }
    for text in ["", "5", "5x", "12h1d", "1:60:00", "1:2", "h", "99999999999999999999d", "-5m"] {
        assert!(Seconds::parse(text).is_err(), "{text}");
    }
    for (text, mb) in [("1500MB", 1500), ("16GB", 16000), ("1.5TB", 1_500_000), ("2G", 2000)] {
        assert_eq!(Megabytes::parse(text), Ok(Megabytes(mb)), "{text}");
    }
    for text in ["", "5", "16 GiB", "GB", "-1GB", "nanGB", "1e300GB"] {
        assert!(Megabytes::parse(text).is_err(), "{text}");
    }
}

#[test]
fn every_site_that_comes_with_bessemer_is_whole() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../slurm");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "yaml") {
            let site = Site::read(&path).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(path.file_stem().unwrap().to_str().unwrap(), site.name.as_str());
            names.push(site.name.to_string());
        }
    }
    names.sort();
    for name in ["laptop", "pbspro", "test-cluster", "torque", "v100"] {
        assert!(names.iter().any(|n| n == name), "{name} is missing");
    }
}
