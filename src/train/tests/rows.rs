//! Conversations as ids: what carries loss, what is cut, what is refused.

mod common;

use common::{alone, model};
use model::Model;
use model::chat::ChatTemplate;
use std::path::Path;
use std::sync::Arc;
use train::rows::{Encoded, Skipped, encode, prompt_ids, read};

const TEMPLATE: &str = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}{{ eos_token }}\n{% endfor %}\
                        {% if add_generation_prompt %}[assistant] {% endif %}";
/// Leaves the answers out of all turns but the last, as templates of models that think aloud do.
const FORGETFUL: &str = "{% for m in messages %}{% if loop.last or m['role'] != 'assistant' %}{{ m['content'] }}{% endif %}\
                         {{ eos_token }}{% endfor %}";

fn chatty(template: &str) -> Model {
    let mut m = model(None);
    let eos = m.tokenizer.token(m.eos[0]).unwrap();
    m.chat = Arc::new(ChatTemplate::new(template, "", &eos, "").unwrap());
    m
}

fn encoded(m: &Model, lines: &str, max: usize) -> train::Result<(Vec<Encoded>, Skipped)> {
    let dir = tempfile::tempdir().unwrap();
    let path: &Path = &dir.path().join("data.jsonl");
    std::fs::write(path, lines).unwrap();
    encode(m, &read(path)?, max)
}

fn said(m: &Model, row: &Encoded) -> Vec<String> {
    row.trained.iter().map(|r| m.tokenizer.decode(&row.ids[r.clone()]).unwrap()).collect()
}

const TALK: &str = r#"{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "add 1"}, {"role": "assistant", "content": "print(1)"}, {"role": "user", "content": "add 2"}, {"role": "assistant", "content": "print(2)"}]}"#;

#[test]
fn every_assistant_turn_carries_loss_up_to_its_end_token_and_is_asked_as_the_server_asks() {
    let _alone = alone();
    let m = chatty(TEMPLATE);
    let (rows, skipped) = encoded(&m, TALK, 1000).unwrap();
    assert_eq!(skipped, Skipped::default());
    let row = &rows[0];
    assert_eq!(said(&m, row), ["print(1)", "print(2)"]);
    for span in &row.trained {
        assert_eq!(row.ids[span.end - 1], m.eos[0]);
    }
    assert_eq!(row.ids.len(), row.trained[1].end, "what follows the last answer teaches nothing");
    // the text that leads to each answer is what the chat template asks with
    let before = |n: usize| m.tokenizer.decode(&row.ids[..row.trained[n].start]).unwrap();
    assert_eq!(before(0), "[system] s\n[user] add 1\n[assistant] ");
    assert!(before(1).ends_with("print(1)\n[user] add 2\n[assistant] "), "{}", before(1));
}

#[test]
fn a_turn_with_train_false_is_context() {
    let _alone = alone();
    let m = chatty(TEMPLATE);
    let quiet = TALK.replace(r#""print(1)""#, r#""print(1)", "train": false"#);
    let (rows, _) = encoded(&m, &quiet, 1000).unwrap();
    assert_eq!(said(&m, &rows[0]), ["print(2)"]);
    let (all, _) = encoded(&m, TALK, 1000).unwrap();
    assert_eq!(
        m.tokenizer.decode(&rows[0].ids).unwrap(),
        m.tokenizer.decode(&all[0].ids).unwrap(),
        "the text is the same, only the loss is not"
    );
}

#[test]
fn a_row_that_is_too_long_keeps_the_header_that_asks_for_the_answer() {
    let _alone = alone();
    let m = chatty(TEMPLATE);
    let long = "add 17 and 34 ".repeat(30);
    let row = format!("{{\"prompt\": \"{long}\", \"completion\": \"print(51)\"}}");
    let (rows, skipped) = encoded(&m, &row, 48).unwrap();
    assert_eq!(skipped, Skipped { prompts_cut: 1, ..Skipped::default() });
    assert_eq!(said(&m, &rows[0]), ["print(51)"]);
    let asked = m.tokenizer.decode(&rows[0].ids[..rows[0].trained[0].start]).unwrap();
    assert!(asked.starts_with("[user] add 17 and 34 add") && asked.ends_with("\n[assistant] "), "{asked}");
    assert!((45..=48).contains(&rows[0].ids.len()), "{}", rows[0].ids.len());
    // an answer that is too long loses its end; a later turn that does not fit goes
    let row = format!("{{\"prompt\": \"add\", \"completion\": \"{long}\"}}");
    let (rows, skipped) = encoded(&m, &row, 48).unwrap();
    assert_eq!((skipped.cut, skipped.prompts_cut, rows[0].ids.len()), (1, 0, 48));
    let first = prompt_ids(&m, "add 1").unwrap().len() + 30;
    let (rows, skipped) = encoded(&m, TALK, first).unwrap();
    assert_eq!((said(&m, &rows[0])[0].as_str(), skipped.cut), ("print(1)", 1));
    assert!(encoded(&m, TALK, 8).unwrap_err().to_string().contains("raise max_tokens"));
}

#[test]
fn a_template_that_rewrites_the_past_is_refused_with_the_line_unless_only_the_last_answer_is_trained() {
    let _alone = alone();
    let m = chatty(FORGETFUL);
    let words = encoded(&m, &format!("\n{TALK}"), 1000).unwrap_err().to_string();
    assert!(words.contains("data.jsonl:2: turn 5:") && words.contains("\"train\": false"), "{words}");
    let quiet = TALK.replace(r#""print(1)""#, r#""print(1)", "train": false"#);
    assert_eq!(said(&m, &encoded(&m, &quiet, 1000).unwrap().0[0]), ["print(2)"]);
}
