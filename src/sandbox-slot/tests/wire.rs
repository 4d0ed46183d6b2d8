//! The slot protocol under arbitrary messages and arbitrary bytes.

use proptest::prelude::*;
use slot::wire::{End, Fetched, Hello, How, PlacedFile, Report, Run, RunLimits, Setup};

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..40)
}

fn files() -> impl Strategy<Value = Vec<PlacedFile>> {
    let one = (".{0,12}", any::<bool>(), bytes());
    proptest::collection::vec(one, 0..4).prop_map(|l| {
        l.into_iter().map(|(path, executable, data)| PlacedFile { path, executable, data }).collect()
    })
}

fn run() -> impl Strategy<Value = Run> {
    let lists = || proptest::collection::vec(bytes(), 0..4);
    let how = prop_oneof![
        (lists(), lists()).prop_map(|(argv, env)| How::Exec { argv, env }),
        any::<u32>().prop_map(|kind| How::Python { kind }),
        (1_u8..=32).prop_map(|count| How::Tests { count }),
    ];
    let limits = any::<[u64; 8]>().prop_map(|l| RunLimits {
        wall_us: l[0],
        cpu_us: l[1],
        memory: l[2],
        address_space: l[3],
        output: l[4],
        file: l[5],
        processes: l[6],
        stack: l[7],
    });
    let fetch = proptest::collection::vec(".{0,12}", 0..3);
    (how, limits, any::<[bool; 2]>(), any::<u64>(), files(), files(), fetch, any::<u64>()).prop_map(
        |(how, limits, [channel, spawns], program, program_files, work_files, fetch, fetch_max)| Run {
            how,
            limits,
            channel,
            spawns,
            program,
            program_files,
            work_files,
            fetch,
            fetch_max,
        },
    )
}

fn report() -> impl Strategy<Value = Report> {
    let end = prop_oneof![
        any::<u8>().prop_map(End::Exited),
        any::<u8>().prop_map(End::Signaled),
        Just(End::Wall),
        Just(End::Cpu),
        Just(End::Memory),
        Just(End::Output),
        Just(End::Processes),
        ".{0,30}".prop_map(End::Failed),
    ];
    let fetched = prop_oneof![bytes().prop_map(Fetched::Data), ".{0,9}".prop_map(Fetched::Refused)];
    (end, any::<[u64; 3]>(), any::<u32>(), any::<bool>(), proptest::collection::vec(fetched, 0..4)).prop_map(
        |(end, [wall_us, cpu_us, peak_kb], leftovers, retire, fetched)| Report {
            end,
            wall_us,
            cpu_us,
            peak_kb,
            leftovers,
            retire,
            fetched,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_run_comes_back_as_it_went(run in run()) {
        prop_assert_eq!(Run::decode(&run.encode(true)), Ok(run));
    }

    #[test]
    fn a_report_comes_back_as_it_went(report in report()) {
        prop_assert_eq!(Report::decode(&report.encode()), Ok(report));
    }

    #[test]
    fn a_cut_or_lengthened_message_is_refused(run in run(), cut in any::<prop::sample::Index>()) {
        let whole = run.encode(true);
        prop_assert!(Run::decode(&whole[..cut.index(whole.len())]).is_err());
        let mut longer = whole;
        longer.push(0);
        prop_assert!(Run::decode(&longer).is_err());
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = (Run::decode(&bytes), Report::decode(&bytes), Hello::decode(&bytes), Setup::decode(&bytes));
    }

    #[test]
    fn a_flipped_byte_is_another_message_or_none(report in report(), at in any::<prop::sample::Index>(), by in 1_u8..) {
        let mut bytes = report.encode();
        let at = at.index(bytes.len());
        bytes[at] ^= by;
        prop_assert_ne!(Report::decode(&bytes), Ok(report));
    }
}
