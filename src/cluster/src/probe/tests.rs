use super::*;
use crate::runner::{Exchange, Replay};
use std::path::Path;

const PARTITIONS: &str = "PartitionName=batch Default=YES MaxTime=UNLIMITED State=UP TotalCPUs=256\n\
                          PartitionName=gpu Default=NO MaxTime=2-00:00:00 State=UP TotalCPUs=80\n";

fn slurm(config: Exchange, assoc: Exchange, rest: Vec<Exchange>) -> Replay {
    let mut all = vec![
        Exchange::new("sbatch", 0, "slurm 23.11.4\n", ""),
        Exchange::new("scontrol", 0, PARTITIONS, ""),
        Exchange::new("sinfo", 0, "batch|128|515000|(null)\ngpu|40|382000|gpu:v100:4(S:0-1)\n", ""),
        config,
        assoc,
    ];
    all.extend(rest);
    Replay::new(all)
}

#[test]
fn a_live_slurm_gives_a_site_file_that_loads() {
    let config = "ClusterName = hal\nMaxArraySize = 2001\nMinJobAge = 20 sec\nEnforcePartLimits = NO\n";
    let replay = slurm(
        Exchange::new("scontrol", 0, config, ""),
        Exchange::new("sacctmgr", 0, "lab|500||normal\n", ""),
        vec![Exchange::new("sacctmgr", 0, "normal|200||\nlong|5||\n", "")],
    );
    let p = probe(&replay, "me").unwrap();
    assert_eq!((replay.left(), p.notes.len()), (0, 0), "{:?}", p.notes);
    let site = Site::load(Path::new("proposed"), &p.text).unwrap_or_else(|e| panic!("{e}\n{}", p.text));
    assert_eq!(site.name.as_str(), "hal");
    assert_eq!(site.queue.as_ref().unwrap().as_str(), "gpu", "GPUs are wanted");
    assert_eq!(site.gpu.kind.as_ref().unwrap().as_str(), "v100");
    assert_eq!(site.account.as_ref().unwrap().as_str(), "lab");
    assert_eq!((site.limits.max_array, site.limits.max_submit), (2000, Some(200)));
    assert_eq!(site.limits.walltime.unwrap().0, 2 * 86_400);
    assert_eq!((site.limits.cpus, site.limits.gpus), (Some(40), Some(4)));
    assert!(p.text.contains("never run") && p.text.contains("after 20 s"));
}

#[test]
fn forbidden_questions_become_notes_and_defaults() {
    let no = |program, text| Exchange::new(program, 1, "", text);
    let replay = Replay::new([
        Exchange::new("sbatch", 0, "slurm 22.05.8\n", ""),
        no("scontrol", "slurm_load_partitions error: Access denied\n"),
        no("sinfo", "denied\n"),
        no("scontrol", "denied\n"),
        no("sacctmgr", "Only 'accounting_storage/slurmdbd' is supported.\n"),
    ]);
    let p = probe(&replay, "me").unwrap();
    assert_eq!(p.notes.len(), 4);
    let site = Site::load(Path::new("proposed"), &p.text).unwrap();
    assert_eq!((site.queue, site.limits.max_array), (None, 1000));
}

#[test]
fn a_wrapper_named_qsub_is_not_taken_for_pbs() {
    let slurm_site = Replay::new([Exchange::new("sbatch", 0, "slurm-wlm 22.05.8\n", "")]);
    assert_eq!(detect(&slurm_site).unwrap().scheduler, Scheduler::Slurm);
    let none = || Exchange {
        program: "sbatch",
        answer: Err(crate::runner::RunError::Missing { program: "sbatch".into() }),
    };
    let pro = Replay::new([none(), Exchange::new("qstat", 0, "pbs_version = 23.06.06\n", "")]);
    assert_eq!(detect(&pro).unwrap().flavor, Some(Flavor::PbsPro));
    let torque = Replay::new([none(), Exchange::new("qstat", 0, "", "Version: 6.1.3\nCommit: abc\n")]);
    assert_eq!(detect(&torque).unwrap().flavor, Some(Flavor::Torque));
    let wrapper = Replay::new([none(), Exchange::new("qstat", 1, "Unknown option: version\n", "")]);
    assert!(detect(&wrapper).unwrap_err().contains("laptop"));
}

#[test]
fn the_partition_of_the_site_is_looked_up_live() {
    let ask = || {
        Replay::new([
            Exchange::new("scontrol", 0, PARTITIONS, ""),
            Exchange::new("sinfo", 0, "gpu|40|1000|(null)\n", ""),
        ])
    };
    let site = |more: &str| {
        Site::load(Path::new("s"), &format!("bessemer_site: 1\nname: t\nscheduler: slurm\n{more}")).unwrap()
    };
    let named = live(&site("partition: gpu\n"), &ask()).unwrap();
    assert_eq!((named.partition.unwrap().max_time_s, named.nodes.len()), (Some(172_800), 1));
    assert_eq!(live(&site(""), &ask()).unwrap().partition.unwrap().name, "batch");
    assert_eq!(live(&site("partition: nosuch\n"), &ask()).unwrap().partition, None);
}
