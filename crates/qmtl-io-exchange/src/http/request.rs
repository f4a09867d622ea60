//! What is asked of an API: a path, a query, and what it costs.

use qmtl_history_api::{Error, Result};
use reqwest::Url;

/// A GET request for what lies at a path under the address of an API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpRequest {
    path: Vec<String>,
    query: Vec<(&'static str, String)>,
    weight: Option<u32>,
}

impl HttpRequest {
    /// A request for a path of these segments, which need no escaping. One that no path can hold (empty, `.`, `..`,
    /// or with a control character) makes asking an `InvalidInput`: it would be another path.
    #[must_use]
    pub fn new<'a>(path: impl IntoIterator<Item = &'a str>) -> Self {
        Self { path: path.into_iter().map(str::to_owned).collect(), query: Vec::new(), weight: None }
    }

    /// Adds a parameter to the query; its value needs no escaping.
    #[expect(clippy::needless_pass_by_value, reason = "values are texts, numbers and times written in place")]
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.query.push((name, value.to_string()));
        self
    }

    /// Says what the request costs, in the units of
    /// [`ExchangeConfig::weight_per_minute`](crate::ExchangeConfig::weight_per_minute); 1 unless said.
    #[must_use]
    pub fn with_weight(mut self, weight: u32) -> Self {
        self.weight = Some(weight);
        self
    }

    /// Says what the request costs unless that was said.
    pub(crate) fn or_weight(mut self, weight: u32) -> Self {
        self.weight.get_or_insert(weight);
        self
    }

    pub(super) fn weight(&self) -> u32 {
        self.weight.unwrap_or(1)
    }

    pub(super) fn url(&self, base: &Url) -> Result<Url> {
        let is_none =
            |part: &&String| matches!(part.as_str(), "" | "." | "..") || part.contains(char::is_control);
        if let Some(part) = self.path.iter().find(is_none) {
            return Err(Error::invalid(
                "this cannot be part of the path of a request; say which symbol the node's bars are of (with_symbol)",
            )
            .with("part", format_args!("{part:?}")));
        }
        let mut url = base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(&self.path);
        }
        if !self.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&self.query);
        }
        Ok(url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_values_are_escaped() {
        let request = HttpRequest::new(["products", "A/B", "candles"]).with("of", "a&b").with("n", 3);
        let url = request.url(&Url::parse("http://127.0.0.1:80/api/").unwrap()).unwrap();
        assert_eq!(url.as_str(), "http://127.0.0.1/api/products/A%2FB/candles?of=a%26b&n=3");
        let base = Url::parse("http://h").unwrap();
        assert_eq!(HttpRequest::new(["time"]).url(&base).unwrap().as_str(), "http://h/time");
        for odd in ["", ".", "..", "B\tTC", "B\nTC"] {
            let error = HttpRequest::new(["c", odd, "M1"]).url(&base).unwrap_err();
            assert!(error.to_string().contains(&format!("{odd:?}")), "{error}");
        }
    }
}
