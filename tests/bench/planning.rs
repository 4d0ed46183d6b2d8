//! Planning a hundred thousand tasks.

use super::lab::{Lab, many};
use super::{REPEAT, spread};
use std::time::Instant;

const TASKS: usize = 100_000;

pub fn measure() -> String {
    let lab = Lab::here();
    // half of the tasks read the other half: edges are part of the work
    let half = many("plan", TASKS / 2, "['true']");
    let text = format!("{half}  after: {{kind: command, inputs: {{x: work}}, params: {{argv: ['true']}}}}\n");
    lab.write("job.yaml", &text);
    let (mut library, mut command, mut peak) = (vec![], vec![], vec![]);
    for _ in 0..REPEAT {
        let begun = Instant::now();
        let graph = plan::load("job.yaml", &text, &plan::Options::default()).expect("the job file is right");
        library.push(begun.elapsed().as_secs_f64());
        assert_eq!(graph.tasks.len(), TASKS);
        drop(graph);
        let ran = lab.bessemer(&["plan", "job.yaml"]);
        assert_eq!(ran.code, 0);
        command.push(ran.wall.as_secs_f64());
        peak.push(ran.peak_mb);
    }
    format!(
        "### Planning: {TASKS} tasks, half of them with an input\n\n| | wall | peak RSS |\n|---|---|---|\n\
         | job file to checked graph with content keys (library) | {} | |\n| `bessemer plan` | {} | {} |\n\nTarget: under 2 s.\n",
        spread(&library, "s"),
        spread(&command, "s"),
        spread(&peak, "MB")
    )
}
