//! `matrix.csv`: a line per run, for spreadsheets and scripts. Pure.

use super::result::Run;

/// The columns. Units are in the names, as in `matrix.json`; a field that is not known is empty.
const COLUMNS: &str = "order,transport,ucx,churn,setting,outcome,expected,matched,slope_per_unit,\
                       ci_low,ci_high,units,cpu_us_per_unit,cpu_error_us,requests_completed,\
                       requests_failed,requests_per_s,latency_p99_ms,started_unix_s,total_s,dir,\
                       reason";

/// The runs as text.
pub fn render(runs: &[Run]) -> String {
    let mut text = format!("{COLUMNS}\n");
    for run in runs {
        text += &fields(run).join(",");
        text.push('\n');
    }
    text
}

fn fields(run: &Run) -> Vec<String> {
    let measured = run.measured.as_ref();
    let number = |value: Option<f64>| value.map_or(String::new(), |value| value.to_string());
    let count = |value: Option<u64>| value.map_or(String::new(), |value| value.to_string());
    let matched = match (run.expected, run.mismatches.is_empty()) {
        (None, true) => "",
        (Some(_), true) => "true",
        (_, false) => "false",
    };
    vec![
        run.order.to_string(),
        run.group.transport.to_string(),
        quoted(run.group.ucx.as_deref().unwrap_or("")),
        run.group.churn.map_or(String::new(), |churn| churn.to_string()),
        quoted(&run.set.to_string()),
        run.outcome.to_string(),
        run.expected.map_or(String::new(), |expected| expected.to_string()),
        matched.to_owned(),
        number(measured.and_then(|measured| measured.slope_per_unit)),
        number(measured.and_then(|measured| measured.ci_low)),
        number(measured.and_then(|measured| measured.ci_high)),
        number(measured.map(|measured| measured.units)),
        number(measured.and_then(|measured| measured.cpu_us_per_unit)),
        number(measured.and_then(|measured| measured.cpu_error_us)),
        count(measured.map(|measured| measured.requests_completed)),
        count(measured.map(|measured| measured.requests_failed)),
        number(measured.map(|measured| measured.requests_per_s)),
        number(measured.map(|measured| measured.latency_p99_ms)),
        run.started_unix_s.to_string(),
        run.total_s.to_string(),
        quoted(&run.dir),
        quoted(run.reason.as_deref().unwrap_or("")),
    ]
}

/// A field as RFC 4180 has it (<https://www.rfc-editor.org/rfc/rfc4180>): in quotes if it holds a
/// comma, a quote or a line end.
fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::fixture::{run, ucx};
    use crate::matrix::result::Outcome;

    #[test]
    fn a_run_is_a_line_with_all_columns() {
        let leak = run(0, ucx("1.19.0"), "default", Outcome::Leak, 144.0, 10.0);
        let text = render(&[leak]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[1],
            "0,ucx,1.19.0,same,default,leak,leak,true,144,143.5,144.5,80000,10,0.07,500,0,100,40,\
             1795000000,8,cells/0,"
        );
        assert_eq!(lines[0].split(',').count(), lines[1].split(',').count());
    }

    #[test]
    fn what_failed_has_empty_fields_and_its_reason_in_quotes() {
        let mut failed = run(1, ucx("1.19.0"), r"UCX_TLS=tcp\,self", Outcome::Failed, 0.0, 1.0);
        failed.reason = Some("no \"libucp\",\nsorry".to_owned());
        failed.mismatches.push("it failed".to_owned());
        let text = render(&[failed]);
        assert!(text.contains("\"UCX_TLS=tcp,self\",failed,failed,false,,,,,,,,,,,"), "{text}");
        assert!(text.ends_with("\"no \"\"libucp\"\",\nsorry\"\n"), "{text}");
    }
}
