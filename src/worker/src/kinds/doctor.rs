//! `bessemer-worker doctor`: facts about libtorch on this machine.

use serde::Serialize;

#[derive(Serialize)]
struct Facts {
    worker: &'static str,
    /// Version that the binary was built against.
    libtorch: String,
    threads: i32,
    cpu_capability: String,
    /// Whether the CUDA half was found and opened.
    cuda_library: bool,
    /// Whether a GPU can be used.
    cuda: bool,
    gpus: i64,
}

/// Prints the facts; exit code 0 when libtorch can calculate.
pub fn run(json: bool) -> i32 {
    let runtime = model::runtime::init(0);
    let sum =
        f64::try_from(tch::Tensor::ones([2, 2], (tch::Kind::Float, tch::Device::Cpu)).sum(tch::Kind::Float));
    let facts = Facts {
        worker: env!("CARGO_PKG_VERSION"),
        libtorch: model::runtime::LIBTORCH.to_owned(),
        threads: tch::get_num_threads(),
        cpu_capability: model::runtime::cpu_capability(),
        cuda_library: runtime.cuda_library,
        cuda: tch::Cuda::is_available(),
        gpus: tch::Cuda::device_count(),
    };
    if json {
        println!("{}", serde_json::to_string_pretty(&facts).expect("plain data serialises"));
    } else {
        println!("libtorch        {}", facts.libtorch);
        println!("threads         {}", facts.threads);
        println!("cpu capability  {}", facts.cpu_capability);
        println!(
            "CUDA library    {}",
            if facts.cuda_library { "present" } else { "not installed (libtorch.py cuda)" }
        );
        println!("GPUs            {}", facts.gpus);
    }
    if sum.is_ok_and(|s| (s - 4.0).abs() < f64::EPSILON) {
        record::exit::DONE
    } else {
        record::exit::NODE_UNFIT
    }
}
