//! Predicted against measured peak memory: reads lines of `{name, config, params, peak_mb}` (params of kind sft) on standard
//! input, as docs/MEMORY.md describes, and prints the table of that page.

use plan::memory::{Shape, Where, estimate};
use record::Params;
use serde_json::{Value, json};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("| task | predicted MB | measured MB | ratio | largest parts |\n|---|---|---|---|---|");
    for line in std::io::stdin().lines() {
        let row: Value = serde_json::from_str(&line?)?;
        let shape = Shape::from_config(&row["config"]).ok_or("an architecture that is not known")?;
        let kind = row["kind"].as_str().unwrap_or("sft");
        let work: Params = serde_json::from_value(json!({"kind": kind, "params": row["params"]}))?;
        let found = estimate(&work, &shape, Where::Cpu).ok_or("a kind without a model")?;
        let measured = row["peak_mb"].as_f64().unwrap_or(f64::NAN);
        #[allow(clippy::cast_precision_loss)]
        let ratio = found.megabytes() as f64 / measured;
        let name = row["name"].as_str().unwrap_or("?");
        println!("| {name} | {} | {measured} | {ratio:.2} | {} |", found.megabytes(), found.words());
    }
    Ok(())
}
