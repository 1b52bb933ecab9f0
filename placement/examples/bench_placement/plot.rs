//! Draws microseconds against nodes, both logarithmic, into `bench/placement.svg`.

use std::fmt::Write;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 130.0;
const TOP: f64 = 20.0;
const BOTTOM: f64 = 50.0;
const COLOURS: [&str; 3] = ["#1b6ca8", "#7fb3d5", "#c0392b"];

/// One line of the plot.
pub struct Line {
    name: &'static str,
    points: Vec<(f64, f64)>,
}

impl Line {
    pub fn new(name: &'static str) -> Self {
        Self { name, points: Vec::new() }
    }
    pub fn push(&mut self, nodes: u64, micros: f64) {
        self.points.push(((nodes as f64).log10(), micros.log10()));
    }
}

pub fn write(lines: &[Line]) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../bench/placement.svg");
    if let Err(error) = std::fs::write(path, draw(lines)) {
        println!("the plot was not written: {error}");
    }
}

fn draw(lines: &[Line]) -> String {
    let all = || lines.iter().flat_map(|line| &line.points);
    let high = all().map(|point| point.1).fold(0.0, f64::max).ceil();
    let low = all().map(|point| point.1).fold(high, f64::min).floor();
    let x = |nodes: f64| LEFT + (nodes - 3.0) / 3.0 * (WIDTH - LEFT - RIGHT);
    let y = |micros: f64| TOP + (high - micros) / (high - low) * (HEIGHT - TOP - BOTTOM);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    let mut put = |text: String| svg.push_str(&text);
    for tick in low as i32..=high as i32 {
        let at = y(f64::from(tick));
        put(format!("<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\n", WIDTH - RIGHT));
        let label = 10f64.powi(tick);
        put(format!("<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label} µs</text>\n", LEFT - 6.0, at + 4.0));
    }
    for (tick, label) in [(3.0, "1,000"), (4.0, "10,000"), (5.0, "100,000"), (6.0, "1,000,000 nodes")] {
        put(format!(
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>\n",
            x(tick),
            HEIGHT - BOTTOM + 20.0
        ));
    }
    for (line, colour) in lines.iter().zip(COLOURS) {
        let mut points = line.points.clone();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut path = String::new();
        for (nodes, micros) in &points {
            let _ = write!(path, "{:.1},{:.1} ", x(*nodes), y(*micros));
        }
        put(format!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\n",
            path.trim_end()
        ));
        if let Some((nodes, micros)) = points.last() {
            put(format!(
                "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\">{}</text>\n",
                x(*nodes) + 8.0,
                y(*micros) + 4.0,
                line.name
            ));
        }
    }
    svg.push_str("</svg>\n");
    svg
}
