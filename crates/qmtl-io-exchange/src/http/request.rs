//! What is asked of an API: a path, a query, and what it costs.

use reqwest::Url;

/// A GET request for what lies at a path under the address of an API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpRequest {
    path: Vec<String>,
    query: Vec<(&'static str, String)>,
    pub(crate) weight: u32,
}

impl HttpRequest {
    /// A request for a path of these segments, which need no escaping, of weight 1.
    #[must_use]
    pub fn new<'a>(path: impl IntoIterator<Item = &'a str>) -> Self {
        Self { path: path.into_iter().map(str::to_owned).collect(), query: Vec::new(), weight: 1 }
    }

    /// Adds a parameter to the query; its value needs no escaping.
    #[expect(clippy::needless_pass_by_value, reason = "values are texts, numbers and times written in place")]
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.query.push((name, value.to_string()));
        self
    }

    /// Says what the request costs, in the units of
    /// [`ExchangeConfig::weight_per_minute`](crate::ExchangeConfig::weight_per_minute).
    #[must_use]
    pub fn with_weight(mut self, weight: u32) -> Self {
        self.weight = weight;
        self
    }

    pub(super) fn url(&self, base: &Url) -> Url {
        let mut url = base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(&self.path);
        }
        if !self.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&self.query);
        }
        url
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_values_are_escaped() {
        let request = HttpRequest::new(["products", "A/B", "candles"]).with("of", "a&b").with("n", 3);
        let url = request.url(&Url::parse("http://127.0.0.1:80/api/").unwrap());
        assert_eq!(url.as_str(), "http://127.0.0.1/api/products/A%2FB/candles?of=a%26b&n=3");
        assert_eq!(
            HttpRequest::new(["time"]).url(&Url::parse("http://h").unwrap()).as_str(),
            "http://h/time"
        );
    }
}
