//! The JSON Schema of the job file. One source for two uses: editors get it from `bessemer schema`, and [`crate::check`]
//! walks the very same rules to find mistakes with their places. The parameters of each kind come from `record`.

use record::Kind;
use record::params as p;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};
use std::sync::LazyLock;

/// Rules in the form that [`crate::check`] walks.
pub(crate) struct Rules {
    /// Targets of `$ref: "#/$defs/NAME"`.
    pub defs: Map<String, Value>,
}

pub(crate) static RULES: LazyLock<Rules> = LazyLock::new(|| {
    let mut defs = params_defs();
    defs.extend(structure_defs());
    Rules { defs }
});

fn params_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Corpus => "CorpusParams",
        Kind::Base => "BaseParams",
        Kind::Serve => "ServeParams",
        Kind::Sample => "SampleParams",
        Kind::Sft => "SftParams",
        Kind::Rl => "RlParams",
        Kind::Eval => "EvalParams",
        Kind::Command => "CommandParams",
    }
}

/// A reference to the parameters of one kind.
pub(crate) fn params_ref(kind: Kind) -> Value {
    reference(params_name(kind))
}

fn params_defs() -> Map<String, Value> {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    for kind in Kind::ALL {
        match kind {
            Kind::Corpus => generator.subschema_for::<p::CorpusParams>(),
            Kind::Base => generator.subschema_for::<p::BaseParams>(),
            Kind::Serve => generator.subschema_for::<p::ServeParams>(),
            Kind::Sample => generator.subschema_for::<p::SampleParams>(),
            Kind::Sft => generator.subschema_for::<p::SftParams>(),
            Kind::Rl => generator.subschema_for::<p::RlParams>(),
            Kind::Eval => generator.subschema_for::<p::EvalParams>(),
            Kind::Command => generator.subschema_for::<p::CommandParams>(),
        };
    }
    generator.take_definitions(true)
}

pub(crate) fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/$defs/{name}")})
}

/// A mapping with these keys and no others.
fn closed(description: &str, properties: Value) -> Value {
    json!({"type": "object", "description": description, "properties": properties, "additionalProperties": false})
}

fn described(schema: Value, description: &str) -> Value {
    let mut schema = schema;
    if let Value::Object(map) = &mut schema {
        map.insert("description".into(), description.into());
    }
    schema
}

fn count(least: u32, description: &str) -> Value {
    json!({"type": "integer", "format": "uint32", "minimum": least, "description": description})
}

/// Definitions that do not depend on the kind.
fn structure_defs() -> Map<String, Value> {
    let scalar = json!({"type": ["string", "number", "boolean"]});
    let one_source = json!({"anyOf": [
        {"type": "string", "description": "A phase; `${axis}` is allowed."},
        reference("source"),
    ]});
    let defs = json!({
        "duration": {
            "type": "string", "x-unit": "time",
            "pattern": "^((\\d+d)?(\\d+h)?(\\d+m)?(\\d+s)?|(\\d+-)?\\d+:\\d\\d:\\d\\d)$",
            "description": "A time: 90s, 30m, 2h, 1h30m, HH:MM:SS or D-HH:MM:SS.",
        },
        "memory": {
            "type": "string", "x-unit": "memory",
            "pattern": "^\\d+(\\.\\d{1,3})? ?(MB|GB|TB|MiB|GiB|TiB)$",
            "description": "Memory: 500MB, 2GB, 16GiB.",
        },
        "matrix": {
            "type": "object",
            "description": "Axis -> list of values. The sweep has every combination.",
            "additionalProperties": {"type": "array", "minItems": 1, "items": scalar},
        },
        "resources": closed("What one task asks of the machine.", json!({
            "cpus": described(count(1, ""), "CPU cores (default 1)."),
            "gpus": described(count(0, ""), "GPUs (default 0)."),
            "memory": described(reference("memory"), "Main memory of the task (default 2GB)."),
            "walltime": described(reference("duration"), "Time limit of one attempt (default 1h)."),
        })),
        "retry": closed("How many attempts may end in each class of failure before the task counts as failed.", json!({
            "error": count(1, "Attempts that may end with an unexplained error or vanish (default 2)."),
            "node_unfit": count(1, "Attempts that may meet an unfit node; the next one avoids it (default 3)."),
            "oom": count(1, "Attempts that may run out of memory (default 3)."),
            "oom_factor": {"type": "number", "minimum": 1.0, "maximum": 16.0,
                "description": "Memory of the next attempt after running out = this times the last (default 1.5)."},
            "oom_cap": described(reference("memory"), "Memory never grows beyond this (default 64GB)."),
            "timeout": count(1, "Attempts that may reach the time limit without a newer checkpoint (default 2). \
                While checkpoints advance, a task is continued without limit."),
            "preempted": {"anyOf": [{"type": "integer", "format": "uint32", "minimum": 1}, {"const": "unlimited"}],
                "description": "Attempts that may be preempted (default unlimited)."},
            "try_again": count(1, "Attempts that may end with \"not now\" (default 10)."),
            "setup": count(1, "Attempts whose set-up may fail (default 1)."),
            "backoff": described(reference("duration"), "Wait before the second attempt; doubles (default 30s)."),
            "backoff_max": described(reference("duration"), "Longest wait between attempts (default 30m)."),
        })),
        "extra": {
            "type": "array", "items": {"type": "string"},
            "description": "Scheduler options, verbatim, e.g. \"--constraint=v100\". The lists of site, defaults, phase and variants follow one another; the last option wins.",
        },
        "at": {
            "type": "object",
            "description": "Axis -> value, list of values, or \"*\" for all: which points of the other phase.",
            "additionalProperties": {"anyOf": [scalar, {"type": "array", "minItems": 1, "items": scalar}]},
        },
        "when": {
            "type": "object", "minProperties": 1,
            "description": "Axis -> value or list of values; all axes must match.",
            "additionalProperties": {"anyOf": [scalar, {"type": "array", "minItems": 1, "items": scalar}]},
        },
        "source": {
            "type": "object", "required": ["phase"], "additionalProperties": false,
            "properties": {
                "phase": {"type": "string", "description": "A phase; `${axis}` is allowed."},
                "at": reference("at"),
            },
        },
        "inputs": {
            "type": "object",
            "description": "Role -> phase, list of phases, or {phase, at}: whose outputs this phase reads. Also hf://ORG/NAME@REVISION, hf://datasets/ORG/NAME@REVISION/PATH (bessemer fetch --job), or a file or model directory (./rows.jsonl, ~/models/mine).",
            "additionalProperties": {"anyOf": [
                {"type": "string", "description": "A phase; `${axis}` is allowed."},
                {"type": "array", "minItems": 1, "items": one_source},
                reference("source"),
            ]},
        },
        "services": {
            "type": "object",
            "description": "Role -> phase of kind `serve` that must be up while this phase runs.",
            "additionalProperties": one_source,
        },
        "budget": closed("`bessemer plan` refuses a job that needs more than this, by its estimates.", json!({
            "tasks": {"type": "integer", "minimum": 0, "description": "Tasks."},
            "cpu_hours": {"type": "number", "minimum": 0, "description": "CPU cores times hours."},
            "gpu_hours": {"type": "number", "minimum": 0, "description": "GPUs times hours."},
            "hours": {"type": "number", "minimum": 0, "description": "Hours of the longest chain of tasks."},
        })),
        "kind": kinds(),
    });
    match defs {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn kinds() -> Value {
    json!({"type": "string", "enum": Kind::ALL.map(Kind::name), "description": "What the phase does."})
}

/// Keys that defaults, phases and variants share.
fn terms() -> Map<String, Value> {
    Map::from_iter([
        ("resources".to_owned(), reference("resources")),
        ("retry".to_owned(), reference("retry")),
        ("extra".to_owned(), reference("extra")),
        (
            "estimate".to_owned(),
            described(reference("duration"), "How long one task will take (default: walltime)."),
        ),
        (
            "margin".to_owned(),
            described(
                reference("duration"),
                "Checkpoint and leave this long before the walltime ends (default: a tenth of it, 10s to 5m).",
            ),
        ),
    ])
}

/// One phase. `params` is the rule for its parameters; an overlay (`profiles:`) may leave out the kind.
pub(crate) fn phase(params: &Value, overlay: bool) -> Value {
    let mut body = terms();
    body.insert("params".into(), params.clone());
    body.insert("inputs".into(), reference("inputs"));
    body.insert("services".into(), reference("services"));
    let mut variant = body.clone();
    variant.insert("when".into(), reference("when"));
    body.insert("kind".into(), reference("kind"));
    body.insert("matrix".into(), described(reference("matrix"), "Axes of this phase alone."));
    let variant = json!({
        "type": "object", "properties": variant, "required": ["when"], "additionalProperties": false,
    });
    body.insert(
        "variants".into(),
        json!({"type": "array", "items": variant,
            "description": "Changes for some points, in order; later ones win."}),
    );
    let mut schema = json!({"type": "object", "properties": body, "additionalProperties": false});
    if !overlay {
        schema["required"] = json!(["kind"]);
    }
    schema
}

fn defaults() -> Value {
    let of_kind = Kind::ALL.map(|kind| {
        let mut body = terms();
        body.insert("params".into(), params_ref(kind));
        (kind.name().to_owned(), closed("Defaults of every phase of this kind.", body.into()))
    });
    let mut properties = terms();
    let kinds = Map::from_iter(of_kind);
    properties.insert("kinds".into(), closed("Defaults by kind.", kinds.into()));
    closed("What every phase starts from.", properties.into())
}

/// The file's top level, with `phases` and `profiles` as given.
pub(crate) fn top(phases: Value, profiles: Option<Value>) -> Value {
    let mut schema = closed(
        "A bessemer job file.",
        json!({
            "matrix": reference("matrix"),
            "defaults": defaults(),
            "phases": phases,
            "budget": reference("budget"),
        }),
    );
    if let Some(profiles) = profiles {
        let properties = &mut schema["properties"];
        properties["bessemer"] = json!({"const": 1, "description": "Format of this file."});
        properties["name"] = json!({"type": "string", "pattern": NAME, "description": "Name of the sweep."});
        properties["profiles"] = profiles;
        schema["required"] = json!(["bessemer", "name", "phases"]);
    }
    schema
}

/// Names of sweeps, phases, axes, roles and profiles: they become parts of paths and variables.
pub(crate) const NAME: &str = "^[A-Za-z][A-Za-z0-9_-]{0,63}$";

/// The JSON Schema of the whole job file, with the parameters of every kind.
#[must_use]
pub fn schema() -> Value {
    let mut defs = RULES.defs.clone();
    for kind in Kind::ALL {
        close_over_templates(&mut defs, params_name(kind));
    }
    for name in ["resources", "retry"] {
        close_over_templates(&mut defs, name);
    }
    defs.insert(
        "template".into(),
        json!({"type": "string", "pattern": "\\$\\{[^}]+\\}", "description": "The value of an axis."}),
    );
    let mut full = phase(&json!({}), false);
    full["allOf"] = Kind::ALL
        .iter()
        .map(|&kind| {
            json!({
                "if": {"properties": {"kind": {"const": kind.name()}}, "required": ["kind"]},
                "then": {"properties": {
                    "params": params_ref(kind),
                    "variants": {"items": {"properties": {"params": params_ref(kind)}}},
                }},
            })
        })
        .collect();
    defs.insert("phase".into(), full);
    let any_params = json!({"anyOf": Kind::ALL.map(params_ref)});
    defs.insert("overlay_phase".into(), phase(&any_params, true));
    let overlay = top(json!({"type": "object", "additionalProperties": reference("overlay_phase")}), None);
    let mut schema = top(
        json!({"type": "object", "minProperties": 1, "additionalProperties": reference("phase"),
            "propertyNames": {"pattern": NAME}, "description": "Name -> phase."}),
        Some(json!({"type": "object", "additionalProperties": overlay,
            "description": "Overlays chosen with --profile: merged over the rest of the file."})),
    );
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    schema["title"] = "bessemer job file".into();
    schema["$defs"] = defs.into();
    nullable_sections(&mut schema);
    schema
}

/// Lets every value of a mapping also be a template, and drops `required` (defaults and variants fill the rest in).
fn close_over_templates(defs: &mut Map<String, Value>, name: &str) {
    let mut nested = Vec::new();
    let Some(schema) = defs.get_mut(name) else { return };
    if let Value::Object(map) = schema {
        map.remove("required");
    }
    let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) else { return };
    for property in properties.values_mut() {
        let Value::Object(map) = property else { continue };
        collect_refs(&Value::Object(map.clone()), &mut nested);
        if map.get("type") == Some(&json!("string")) && !map.contains_key("x-unit") {
            continue;
        }
        let keep = ["description", "default"].map(|k| (k.to_owned(), map.remove(k)));
        let inner = std::mem::take(map);
        map.insert("anyOf".into(), json!([inner, reference("template")]));
        map.extend(keep.into_iter().filter_map(|(k, v)| v.map(|v| (k, v))));
    }
    for name in nested {
        let is_object = defs.get(&name).is_some_and(|d| d.get("properties").is_some());
        let done = defs.get(&name).is_some_and(|d| d.to_string().contains("#/$defs/template"));
        if is_object && !done {
            close_over_templates(defs, &name);
        }
    }
}

fn collect_refs(schema: &Value, out: &mut Vec<String>) {
    match schema {
        Value::Object(map) => {
            if let Some(name) = map.get("$ref").and_then(Value::as_str) {
                out.extend(name.strip_prefix("#/$defs/").map(str::to_owned));
            }
            map.values().for_each(|v| collect_refs(v, out));
        }
        Value::Array(items) => items.iter().for_each(|v| collect_refs(v, out)),
        _ => {}
    }
}

/// `params:` with nothing below it (all commented out) is an empty section, not a mistake.
fn nullable_sections(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if map.get("type") == Some(&json!("object")) && !map.contains_key("required") {
                map.insert("type".into(), json!(["object", "null"]));
            }
            map.values_mut().for_each(nullable_sections);
        }
        Value::Array(items) => items.iter_mut().for_each(nullable_sections),
        _ => {}
    }
}
