//! Rows as ids: what the model is asked, what it learns to say, and what is cut when both are too long.

use super::Encoded;
use super::read::{Row, Text, Turn};
use crate::{Error, Result};
use generate::Message;
use model::Model;

/// What encoding left out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Rows that do not fit whatever is cut: nothing to learn from.
    pub too_long: usize,
    /// Rows whose last answer, or later turns, were cut at the length.
    pub cut: usize,
    /// Rows whose longest user turn lost its end, so that the answer fits.
    pub prompts_cut: usize,
}

/// Prompt text as the model is asked it everywhere (server, sampling, RL, evaluation): one user turn through the chat
/// template.
///
/// # Errors
/// The template's or the tokenizer's words.
pub fn prompt_ids(model: &Model, prompt: &str) -> Result<Vec<u32>> {
    question(model, &[message("user", prompt)])
}

fn message(role: &str, content: &str) -> Message {
    Message { role: role.into(), content: content.into() }
}

/// Ids of `turns` with the header of the answer.
fn question(model: &Model, turns: &[Message]) -> Result<Vec<u32>> {
    Ok(model.tokenizer.encode(&model.chat.render(turns, true)?)?)
}

/// Encodes rows: what is asked and what is answered are encoded apart, so that the model learns from exactly the ids that
/// it will be asked with. An answer's loss goes up to and including its end token; a completion gets one.
///
/// A row that is too long for `max_tokens` first loses the end of its last answer (or whole later turns); when less than
/// half of the room would be left for the first answer, the longest user turn loses its end instead. The template around
/// the turns, and with it the header that asks for the answer, stays whole.
///
/// # Errors
/// The template's or the tokenizer's words with the row's place; a template that cannot be cut into turns; no row is left.
pub fn encode(model: &Model, rows: &[Row], max_tokens: usize) -> Result<(Vec<Encoded>, Skipped)> {
    let mut out = Vec::with_capacity(rows.len());
    let mut skipped = Skipped::default();
    for row in rows {
        match encode_row(model, row, max_tokens, &mut skipped) {
            Ok(Some(encoded)) => out.push(encoded),
            Ok(None) => skipped.too_long += 1,
            Err(e @ Error::Row { .. }) => return Err(e),
            Err(e) => return Err(row.wrong(e.to_string())),
        }
    }
    if out.is_empty() {
        return Err(Error::Invalid(format!(
            "none of the {} rows fits into {max_tokens} tokens, whatever is cut: raise max_tokens",
            rows.len()
        )));
    }
    Ok((out, skipped))
}

/// Ids that are asked, then ids that are answered.
type Exchange = (Vec<u32>, Vec<u32>);

fn encode_row(model: &Model, row: &Row, max: usize, skipped: &mut Skipped) -> Result<Option<Encoded>> {
    let mut exchanges = exchanges(model, &row.text)?;
    let Some((asked, answered)) = exchanges.first() else { return Ok(None) };
    // half of the room for the first answer, or what it needs
    let room = max.saturating_sub(answered.len().min(max / 2).max(1));
    if asked.len() > room {
        let Some(shorter) = shorten(model, &row.text, room)? else { return Ok(None) };
        exchanges = self::exchanges(model, &shorter)?;
        skipped.prompts_cut += 1;
    }
    let (mut ids, mut trained) = (Vec::new(), Vec::new());
    for (asked, answered) in exchanges {
        // a question whose answer does not even begin is of no use
        if ids.len() + asked.len() >= max {
            skipped.cut += 1;
            break;
        }
        ids.extend(asked);
        let from = ids.len().max(1);
        ids.extend(answered);
        if ids.len() > max {
            ids.truncate(max);
            skipped.cut += 1;
            trained.push(from..max);
            break;
        }
        trained.push(from..ids.len());
    }
    Ok((!trained.is_empty()).then_some(Encoded { ids, trained }))
}

fn exchanges(model: &Model, text: &Text) -> Result<Vec<Exchange>> {
    match text {
        Text::Pair { prompt, completion } => {
            let mut answer = model.tokenizer.encode_piece(completion)?;
            answer.extend(model.eos.first());
            Ok(vec![(prompt_ids(model, prompt)?, answer)])
        }
        Text::Chat(turns) => conversation(model, turns),
    }
}

/// Cuts the rendered conversation before and after each trained turn.
fn conversation(model: &Model, turns: &[Turn]) -> Result<Vec<Exchange>> {
    let messages: Vec<Message> = turns.iter().map(|t| message(&t.role, &t.content)).collect();
    let last = turns.iter().rposition(Turn::trained).unwrap_or(0);
    let (mut out, mut done) = (Vec::new(), String::new());
    // ids between a trained turn's end token and the next question (a line break, mostly)
    let mut rest: Vec<u32> = Vec::new();
    for i in (0..turns.len()).filter(|&i| turns[i].trained()) {
        let asked = model.chat.render(&messages[..i], true)?;
        let whole = model.chat.render(&messages[..=i], false)?;
        let (Some(question), Some(answer)) = (asked.strip_prefix(&done), whole.strip_prefix(&asked)) else {
            return Err(Error::Invalid(format!(
                "turn {}: this model's chat template writes the turns before it otherwise once more follow, so the \
                 conversation cannot be cut into what was asked and what was answered; set `\"train\": false` on all \
                 assistant turns but the last, or make one row of each answer",
                i + 1
            )));
        };
        let mut ids = std::mem::take(&mut rest);
        let piece = if done.is_empty() {
            model.tokenizer.encode(question)?
        } else {
            model.tokenizer.encode_piece(question)?
        };
        ids.extend(piece);
        let mut said = model.tokenizer.encode_piece(answer)?;
        match said.iter().rposition(|id| model.eos.contains(id)) {
            Some(end) => rest = said.split_off(end + 1),
            None if i == last => said.extend(model.eos.first()),
            None => {}
        }
        out.push((ids, said));
        done = whole;
    }
    Ok(out)
}

/// The text with the end of its longest user turn cut off, so that the first question has at most `room` ids; `None` if
/// that cannot be. The start stays: it is where a task is stated.
fn shorten(model: &Model, text: &Text, room: usize) -> Result<Option<Text>> {
    let turns = match text {
        Text::Pair { prompt, .. } => vec![message("user", prompt)],
        Text::Chat(turns) => {
            let first = turns.iter().position(Turn::trained).unwrap_or(0);
            turns[..first].iter().map(|t| message(&t.role, &t.content)).collect()
        }
    };
    let users = turns.iter().enumerate().filter(|(_, t)| t.role == "user");
    let Some((which, _)) = users.max_by_key(|(_, t)| t.content.len()) else { return Ok(None) };
    let content = &turns[which].content;
    // byte offsets at which the content may end
    let ends: Vec<usize> = content.char_indices().map(|(i, _)| i).collect();
    let fits = |n: usize| -> Result<bool> {
        let mut turns = turns.clone();
        turns[which].content.truncate(ends[n]);
        Ok(question(model, &turns)?.len() <= room)
    };
    let (mut fit, mut too_many) = (0, ends.len());
    if ends.is_empty() || !fits(0)? {
        return Ok(None);
    }
    while too_many - fit > 1 {
        let middle = fit.midpoint(too_many);
        if fits(middle)? { fit = middle } else { too_many = middle }
    }
    let kept = content[..ends[fit]].to_owned();
    Ok(Some(match text {
        Text::Pair { completion, .. } => Text::Pair { prompt: kept, completion: completion.clone() },
        Text::Chat(turns) => {
            let mut turns = turns.clone();
            turns[which].content = kept;
            Text::Chat(turns)
        }
    }))
}
