//! SandboxFusion's `/list_ids`, `/get_prompts` and `/get_prompt_by_id` for problems that come with the request
//! (`config.provided_data`): there are no data sets here. Of its kinds of data sets only `CommonOJDataset` works that way.
//!
//! Differences on purpose: `offset` and `limit` hold for provided rows too; the sentence behind a statement is our own, in
//! English whatever the locale.

use super::submit::{COMMON_OJ, TestConfig};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

/// Body of `POST /list_ids` and `POST /get_prompts`.
#[derive(Debug, Clone, Deserialize)]
pub struct GetPrompts {
    /// Name of a data set; any name goes.
    pub dataset: String,
    /// `provided_data`: a list of `{"id", "content", "labels"}`.
    pub config: TestConfig,
    /// Rows to leave out.
    #[serde(default)]
    pub offset: usize,
    /// The most rows.
    #[serde(default = "million")]
    pub limit: usize,
}

fn million() -> usize {
    1_000_000
}

/// Body of `POST /get_prompt_by_id`.
#[derive(Debug, Clone, Deserialize)]
pub struct GetPromptById {
    /// Name of a data set; any name goes.
    pub dataset: String,
    /// `provided_data`: the row itself.
    pub config: TestConfig,
    /// The problem's.
    pub id: Json,
}

/// What a model is asked.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Prompt {
    /// The problem's: a number or text.
    pub id: Json,
    /// Its statement, and how it is to be answered.
    pub prompt: String,
    /// What is said of it.
    pub labels: Json,
}

/// That the kind of data set is one that can do with provided rows.
pub(super) fn check_kind(dataset: &str, config: &TestConfig) -> Result<(), String> {
    match config.dataset_type.as_deref() {
        Some(COMMON_OJ) => Ok(()),
        None => Err(format!(
            "no eval class found for dataset {dataset}; there are no data sets here: say config.dataset_type \
             {COMMON_OJ} and give config.provided_data"
        )),
        Some(other) => Err(format!("eval class {other} not found; {COMMON_OJ} is the only one here")),
    }
}

fn field<'a>(row: &'a Map<String, Json>, name: &str, at: &str) -> Result<&'a Json, String> {
    row.get(name).ok_or_else(|| format!("config.provided_data{at} has no {name}"))
}

fn id_of(row: &Map<String, Json>, at: &str) -> Result<Json, String> {
    let id = field(row, "id", at)?;
    if id.is_string() || id.is_i64() || id.is_u64() {
        Ok(id.clone())
    } else {
        Err(format!("config.provided_data{at}.id is {id}; it must be a number or text"))
    }
}

fn prompt_of(row: &Map<String, Json>, at: &str, language: Option<&str>) -> Result<Prompt, String> {
    let content = field(row, "content", at)?;
    let content = content.as_str().ok_or_else(|| format!("config.provided_data{at}.content is no text"))?;
    let labels = match row.get("labels") {
        None | Some(Json::Null) => Json::Object(Map::new()),
        Some(Json::String(text)) => {
            serde_json::from_str(text).map_err(|e| format!("config.provided_data{at}.labels: {e}"))?
        }
        Some(other) => other.clone(),
    };
    if !labels.is_object() {
        return Err(format!("config.provided_data{at}.labels is no object"));
    }
    let language = match language {
        Some("cpp") => "C++",
        Some("python") => "Python",
        Some("nodejs") => "JavaScript (node)",
        Some(other) => other,
        None => "the language of your choice",
    };
    let prompt = format!(
        "{content}\n\nWrite a whole program in {language}. It reads its input from standard input and prints its \
         answer to standard output."
    );
    Ok(Prompt { id: id_of(row, at)?, prompt, labels })
}

/// Where a row stands, and the row; or what is wrong with it.
type Row<'a> = Result<(String, &'a Map<String, Json>), String>;

impl GetPrompts {
    fn rows(&self) -> Result<impl Iterator<Item = Row<'_>>, String> {
        check_kind(&self.dataset, &self.config)?;
        let Some(Json::Array(rows)) = &self.config.provided_data else {
            return Err("config.provided_data should be a list of objects with id, content and labels".into());
        };
        Ok(rows.iter().enumerate().skip(self.offset).take(self.limit).map(|(i, row)| {
            let at = format!("[{i}]");
            match row.as_object() {
                Some(row) => Ok((at, row)),
                None => Err(format!("config.provided_data{at} is no object")),
            }
        }))
    }

    /// Answer of `/list_ids`.
    ///
    /// # Errors
    /// `detail` of status 400.
    pub fn ids(&self) -> Result<Vec<Json>, String> {
        self.rows()?.map(|row| row.and_then(|(at, row)| id_of(row, &at))).collect()
    }

    /// Answer of `/get_prompts`.
    ///
    /// # Errors
    /// `detail` of status 400.
    pub fn prompts(&self) -> Result<Vec<Prompt>, String> {
        let language = self.config.language.as_deref();
        self.rows()?.map(|row| row.and_then(|(at, row)| prompt_of(row, &at, language))).collect()
    }
}

impl GetPromptById {
    /// Answer of `/get_prompt_by_id`.
    ///
    /// # Errors
    /// `detail` of status 400.
    pub fn prompt(&self) -> Result<Prompt, String> {
        check_kind(&self.dataset, &self.config)?;
        let Some(Json::Object(row)) = &self.config.provided_data else {
            return Err("config.provided_data should be an object with id, content and labels".into());
        };
        let prompt = prompt_of(row, "", self.config.language.as_deref())?;
        if prompt.id == self.id {
            Ok(prompt)
        } else {
            Err(format!("config.provided_data.id is {}, not {}", prompt.id, self.id))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn get(rows: Json, offset: usize) -> GetPrompts {
        let body = json!({"dataset": "mine", "offset": offset, "config":
            {"dataset_type": "CommonOJDataset", "language": "cpp", "provided_data": rows}});
        serde_json::from_value(body).expect("a request")
    }

    #[test]
    fn provided_rows_become_ids_and_prompts() {
        let rows = json!([{"id": 1, "content": "Add."}, {"id": "b", "content": "Sort.", "labels": "{\"level\": 2}"}]);
        let all = get(rows, 0);
        assert_eq!(all.ids(), Ok(vec![json!(1), json!("b")]));
        let prompts = all.prompts().expect("prompts");
        assert!(prompts[0].prompt.starts_with("Add.\n\n") && prompts[0].prompt.contains("C++"));
        assert_eq!((&prompts[0].labels, &prompts[1].labels), (&json!({}), &json!({"level": 2})));
        let rows = json!([{"id": 1, "content": "Add."}, {"id": "b", "content": "Sort."}]);
        assert_eq!(get(rows, 1).ids(), Ok(vec![json!("b")]));
    }

    #[test]
    fn mistakes_are_named_by_row_and_field() {
        assert!(get(json!({}), 0).ids().expect_err("no list").contains("should be a list"));
        assert!(get(json!([{"content": "x"}]), 0).ids().expect_err("no id").contains("[0] has no id"));
        assert!(get(json!([{"id": 1}]), 0).prompts().expect_err("no text").contains("[0] has no content"));
        let by_id = |id: Json| GetPromptById {
            dataset: "mine".into(),
            config: get(json!({"id": 7, "content": "Add."}), 0).config,
            id,
        };
        assert!(by_id(json!(7)).prompt().is_ok());
        assert!(by_id(json!(8)).prompt().expect_err("another one").contains("is 7, not 8"));
    }
}
