//! Reading and writing a model holds it once. Linux only: the figures are the kernel's.
#![cfg(target_os = "linux")]

use model::{Arch, Config, Decoder, Spec, weights};
use std::path::Path;
use tch::{Device, Kind};

/// `VmHWM` (most memory ever resident) of this process, bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

fn config() -> Config {
    Config {
        arch: Arch::Llama,
        vocab: 8192,
        hidden: 512,
        intermediate: 2048,
        layers: 8,
        heads: 8,
        kv_heads: 4,
        head_dim: 64,
        context: 128,
        norm_eps: 1e-6,
        rope_theta: 10_000.0,
        rope_scaling: model::config::RopeScaling::None,
        tied: true,
        spec: Spec::of(Arch::Llama),
        bos: None,
        eos: vec![],
        pad: None,
    }
}

/// What a child process does: "write" or "read KIND", and prints how far the peak rose.
fn child(dir: &Path, what: &str) {
    model::runtime::init(1);
    let (kind, quantize) = match what {
        "bf16" => (Kind::BFloat16, false),
        "nf4" => (Kind::BFloat16, true),
        _ => (Kind::Float, false),
    };
    // everything that libtorch makes once
    drop(Decoder::random(
        Config { layers: 1, vocab: 64, hidden: 64, intermediate: 64, ..config() },
        Device::Cpu,
    ));
    let before = peak();
    let d = if what == "write" {
        let d = Decoder::random(config(), Device::Cpu);
        weights::save_entries(&dir.join("model.safetensors"), d.export().unwrap()).unwrap();
        d
    } else {
        Decoder::load(dir, config(), kind, Device::Cpu, quantize).unwrap()
    };
    println!("peak {} {}", peak() - before, d.weight_bytes());
}

#[test]
fn a_model_is_held_once_while_it_is_read_or_written() {
    if let Ok(what) = std::env::var("BESSEMER_TEST_CHILD") {
        return child(Path::new(&std::env::var("BESSEMER_TEST_DIR").unwrap()), &what);
    }
    let dir = tempfile::tempdir().unwrap();
    // one tensor of the largest kind in fp32, twice: what is being converted, and the allocator's slack
    let slack = 4 * 2 * (8192 * 512) as u64 + (64 << 20);
    for what in ["write", "fp32", "bf16", "nf4"] {
        let out = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "a_model_is_held_once_while_it_is_read_or_written",
                "--nocapture",
                "--test-threads=1",
            ])
            .env("BESSEMER_TEST_CHILD", what)
            .env("BESSEMER_TEST_DIR", dir.path())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let line = text.lines().find_map(|l| l.split("peak ").nth(1)).unwrap_or_else(|| panic!("{text}"));
        let numbers: Vec<u64> = line.split_whitespace().map(|n| n.parse().unwrap()).collect();
        println!("{what}: {} MB for {} MB of weights", numbers[0] >> 20, numbers[1] >> 20);
        assert!(numbers[0] < numbers[1] + slack, "{what}: {numbers:?}");
    }
}
