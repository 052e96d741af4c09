//! A chart of the ratios as SVG: for each point a group of bars, one per metric, on a logarithmic axis around 1x.

use std::fmt::Write;

use crate::report::{Metric, ratio};
use crate::rounds::Outcome;

const METRICS: [(Metric, &str); 4] =
    [(Metric::Throughput, "#2563a8"), (Metric::P50, "#8fb8de"), (Metric::P99, "#e08a3c"), (Metric::Cpu, "#4d8f5b")];

/// The axis goes from 1/16 to 16; what is beyond ends at its edge, with its figure beside it.
const DOUBLINGS: f64 = 4.0;
const LABEL_WIDTH: f64 = 290.0;
const PLOT_WIDTH: f64 = 560.0;
const RIGHT: f64 = 70.0;
const TOP: f64 = 92.0;
const BAR: f64 = 11.0;
const GAP: f64 = 14.0;

/// Draws `outcomes` under `title`.
pub fn svg(title: &str, outcomes: &[Outcome]) -> String {
    let group = BAR * METRICS.len() as f64 + GAP;
    let bottom = TOP + group * outcomes.len() as f64;
    let (width, height) = (LABEL_WIDTH + PLOT_WIDTH + RIGHT, bottom + 34.0);
    let mut svg = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"16\" y=\"26\" font-size=\"16\" font-weight=\"bold\">{}</text>",
        escape(title)
    );
    legend(&mut svg);
    axis(&mut svg, bottom);
    for (i, outcome) in outcomes.iter().enumerate() {
        bars(&mut svg, outcome, TOP + group * i as f64 + GAP / 2.0);
    }
    let one = x_of(1.0);
    let _ = writeln!(
        svg,
        "<line x1=\"{one}\" x2=\"{one}\" y1=\"{TOP}\" y2=\"{bottom}\" stroke=\"#222\" stroke-width=\"1.5\"/>\n</svg>"
    );
    svg
}

fn legend(svg: &mut String) {
    let mut x = 16.0;
    for (metric, colour) in METRICS {
        let better = if metric.more_is_better() { "more is better" } else { "less is better" };
        let text = format!("{} ({better})", metric.name());
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"42\" width=\"12\" height=\"12\" fill=\"{colour}\"/>\
             <text x=\"{}\" y=\"52\">{text}</text>",
            x + 17.0
        );
        x += 17.0 + 7.0 * text.len() as f64 + 12.0;
    }
}

fn axis(svg: &mut String, bottom: f64) {
    for doubling in -(DOUBLINGS as i32)..=(DOUBLINGS as i32) {
        let x = x_of(f64::from(doubling).exp2());
        let label = if doubling < 0 { format!("1/{}x", 1 << -doubling) } else { format!("{}x", 1 << doubling) };
        let _ = writeln!(
            svg,
            "<line x1=\"{x}\" x2=\"{x}\" y1=\"{TOP}\" y2=\"{bottom}\" stroke=\"#ddd\"/>\
             <text x=\"{x}\" y=\"{}\" text-anchor=\"middle\">{label}</text>\
             <text x=\"{x}\" y=\"{}\" text-anchor=\"middle\">{label}</text>",
            TOP - 8.0,
            bottom + 18.0
        );
    }
}

fn bars(svg: &mut String, outcome: &Outcome, top: f64) {
    let middle = top + BAR * METRICS.len() as f64 / 2.0 + 4.0;
    let _ = writeln!(
        svg,
        "<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\">{}</text>",
        LABEL_WIDTH - 12.0,
        escape(&outcome.point.label())
    );
    for (i, (metric, colour)) in METRICS.iter().enumerate() {
        let Some(ratio) = ratio(outcome, *metric) else { continue };
        let y = top + BAR * i as f64;
        let (from, to) = (x_of(1.0).min(x_of(ratio)), x_of(1.0).max(x_of(ratio)));
        let (text_x, anchor) = if ratio < 1.0 { (from - 4.0, "end") } else { (to + 4.0, "start") };
        let _ = writeln!(
            svg,
            "<rect x=\"{from:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{colour}\"/>\
             <text x=\"{text_x:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\" font-size=\"10\">{ratio:.2}x</text>",
            (to - from).max(1.0),
            BAR - 1.5,
            y + BAR - 2.5
        );
    }
}

/// Where a ratio is on the axis.
fn x_of(ratio: f64) -> f64 {
    let doublings = ratio.log2().clamp(-DOUBLINGS, DOUBLINGS);
    LABEL_WIDTH + PLOT_WIDTH * (doublings + DOUBLINGS) / (2.0 * DOUBLINGS)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::outcome;

    #[test]
    fn a_bar_starts_at_the_line_and_says_its_figure() {
        let svg = svg("a < b", &[outcome(&[[200.0, 100.0]])]);
        assert!(svg.contains("a &lt; b"));
        assert!(svg.contains(&format!("<rect x=\"{:.1}\"", x_of(1.0))), "{svg}");
        assert!(svg.contains(">2.00x</text>"));
        assert!(!svg.contains("NaN"));
    }

    #[test]
    fn what_is_off_the_axis_ends_at_its_edge() {
        assert_eq!(x_of(1000.0), LABEL_WIDTH + PLOT_WIDTH);
        assert_eq!(x_of(0.0), LABEL_WIDTH);
        assert_eq!(x_of(1.0), LABEL_WIDTH + PLOT_WIDTH / 2.0);
    }
}
