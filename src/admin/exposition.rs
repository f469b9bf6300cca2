//! The two formats of `/metrics`, and their content negotiation.

/// A format of the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposition {
    /// Prometheus text format 0.0.4, the default.
    Text,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

/// Weight of a media type in thousandths (RFC 9110 section 12.4.2).
type Weight = u16;

const WEIGHT_MAX: Weight = 1000;

impl Exposition {
    /// Chooses by the values of `Accept`. OpenMetrics must be listed, with a weight not below that
    /// of the text format's most specific range.
    pub fn negotiate<'a>(accept: impl Iterator<Item = &'a str>) -> Self {
        let (mut open_metrics, mut plain, mut text, mut any) = (0, None, None, None);
        for range in accept.flat_map(|value| value.split(',')) {
            let mut parts = range.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default().to_ascii_lowercase();
            let (version, weight) = parameters(parts);
            match &*name {
                "application/openmetrics-text" if matches!(version, None | Some("1.0.0")) => {
                    open_metrics = weight.max(open_metrics);
                }
                "text/plain" if matches!(version, None | Some("0.0.4")) => {
                    plain = Some(weight).max(plain);
                }
                "text/*" => text = Some(weight),
                "*/*" => any = Some(weight),
                _ => {}
            }
        }
        let text = plain.or(text).or(any).unwrap_or_default();
        match open_metrics > 0 && open_metrics >= text {
            true => Exposition::OpenMetrics,
            false => Exposition::Text,
        }
    }

    /// The `Content-Type` of the format.
    pub fn content_type(self) -> &'static str {
        match self {
            Exposition::Text => "text/plain; version=0.0.4; charset=utf-8",
            Exposition::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// Converts OpenMetrics text to this format.
    pub fn convert(self, encoded: String) -> String {
        match self {
            Exposition::Text => text_of(&encoded),
            Exposition::OpenMetrics => encoded,
        }
    }
}

/// Version and weight among the parameters of a media range.
fn parameters<'a>(parameters: impl Iterator<Item = &'a str>) -> (Option<&'a str>, Weight) {
    let (mut version, mut weight) = (None, WEIGHT_MAX);
    for (name, value) in parameters.filter_map(|parameter| parameter.split_once('=')) {
        let value = value.trim().trim_matches('"');
        match name.trim() {
            name if name.eq_ignore_ascii_case("version") => version = Some(value),
            name if name.eq_ignore_ascii_case("q") => weight = parse_weight(value),
            _ => {}
        }
    }
    (version, weight)
}

/// An invalid weight counts as 0.
fn parse_weight(text: &str) -> Weight {
    let weight = text.parse::<f32>().unwrap_or_default().clamp(0.0, 1.0);
    (weight * f32::from(WEIGHT_MAX)) as Weight
}

/// In the text format the metadata of a counter uses the name of its sample, `NAME_total`; there
/// are no units and no end mark.
fn text_of(open_metrics: &str) -> String {
    let mut out = String::with_capacity(open_metrics.len() + open_metrics.len() / 8);
    let mut lines = open_metrics.lines().peekable();
    while let Some(line) = lines.next() {
        let Some(metadata) = line.strip_prefix("# ") else {
            push_line(&mut out, &[line]);
            continue;
        };
        let Some((keyword @ ("HELP" | "TYPE"), rest)) = metadata.split_once(' ') else { continue };
        let (name, what) = rest.split_once(' ').unwrap_or((rest, ""));
        let type_line = if keyword == "TYPE" { Some(&line) } else { lines.peek() };
        let counter = format!("# TYPE {name} counter");
        let suffix = if type_line.is_some_and(|line| **line == counter) { "_total" } else { "" };
        push_line(&mut out, &["# ", keyword, " ", name, suffix, " ", what]);
    }
    out
}

fn push_line(out: &mut String, parts: &[&str]) {
    out.extend(parts.iter().copied());
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use Exposition::{OpenMetrics, Text};

    #[test]
    fn a_scraper_gets_the_format_that_it_prefers() {
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
            application/openmetrics-text;version=0.0.1;q=0.4,\
            text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,\
            text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
        for (accept, expected) in [
            (&[][..], Text),
            (&[""], Text),
            (&["*/*"], Text),
            (&["text/html,*/*;q=0.8"], Text),
            (&["application/json"], Text),
            (&["text/plain;version=0.0.4"], Text),
            (&["application/openmetrics-text"], OpenMetrics),
            (&["Application/OpenMetrics-Text; Version=1.0.0"], OpenMetrics),
            (&["application/openmetrics-text; version=\"1.0.0\"; charset=utf-8"], OpenMetrics),
            (&["application/openmetrics-text;version=0.0.1"], Text),
            (&["application/openmetrics-text;q=0"], Text),
            (&["application/openmetrics-text;q=0.0001"], Text),
            (&["application/openmetrics-text;q=x"], Text),
            (&["application/openmetrics-text;q=NaN"], Text),
            (&["application/openmetrics-text;q=-1,text/plain;q=0"], Text),
            (&["application/openmetrics-text;q=0.5,text/plain;q=0.6"], Text),
            (&["application/openmetrics-text;q=0.5,text/plain;q=0.5"], OpenMetrics),
            (&["application/openmetrics-text;q=0.5,*/*;q=0.9"], Text),
            (&["application/openmetrics-text;q=0.5,text/plain;q=0.1,*/*;q=0.9"], OpenMetrics),
            (&["application/openmetrics-text;q=0.5,text/*;q=0.1,*/*;q=0.9"], OpenMetrics),
            (&["text/plain;q=0.1", "application/openmetrics-text;q=0.2"], OpenMetrics),
            (&[prometheus], OpenMetrics),
        ] {
            let negotiated = Exposition::negotiate(accept.iter().copied());
            assert_eq!(negotiated, expected, "{accept:?}");
        }
    }

    #[test]
    fn metadata_of_the_text_format_names_what_is_sampled() {
        let open_metrics = "# HELP a_bytes Bytes # so far.\n# TYPE a_bytes counter\n\
            # UNIT a_bytes bytes\na_bytes_total{x=\"# HELP\"} 1\n\
            # HELP b Now.\n# TYPE b gauge\nb 2\n# EOF\n";
        let text = "# HELP a_bytes_total Bytes # so far.\n# TYPE a_bytes_total counter\n\
            a_bytes_total{x=\"# HELP\"} 1\n# HELP b Now.\n# TYPE b gauge\nb 2\n";
        assert_eq!(Text.convert(open_metrics.to_string()), text);
        assert_eq!(OpenMetrics.convert(open_metrics.to_string()), open_metrics);
        assert_eq!(Text.convert(String::new()), "");
    }
}
