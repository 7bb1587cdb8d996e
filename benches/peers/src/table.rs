//! What is printed: medians, spreads and ratios.

use std::time::Duration;

use crate::Place;
use crate::load::{Measured, Shape};

/// All rounds of one contestant in one shape.
pub(crate) struct Cell {
    /// Operations a second: the median of the rounds.
    rate: f64,
    /// Half the distance between the best and the worst round, as a part of the median.
    spread: f64,
    /// Microseconds of CPU for each operation: the median of the rounds.
    cpu: f64,
    /// Latency in microseconds, over all rounds.
    p50: f64,
    p99: f64,
}

impl Cell {
    /// Sums up some rounds, at least one.
    pub(crate) fn of(rounds: Vec<Measured>) -> Self {
        let each = |value: fn(&Measured) -> f64| {
            let mut values: Vec<f64> = rounds.iter().map(value).collect();
            values.sort_by(f64::total_cmp);
            values
        };
        let rates = each(|round| round.operations as f64 / round.elapsed.as_secs_f64());
        let cpu = each(|round| microseconds(round.cpu) / round.operations as f64);
        let rate = quantile(&rates, 0.5);
        let spread = (rates[rates.len() - 1] - rates[0]) / 2.0 / rate;
        let mut latencies: Vec<u64> = rounds.into_iter().flat_map(|r| r.latencies).collect();
        assert!(!latencies.is_empty(), "a round in which nothing was answered");
        latencies.sort_unstable();
        let latency = |part| quantile(&latencies, part) as f64 / 1e3;
        Self { rate, spread, cpu: quantile(&cpu, 0.5), p50: latency(0.5), p99: latency(0.99) }
    }

    fn print(&self) -> String {
        format!(
            "{:>7} ±{:>2.0}% · {} · {}/{}",
            thousands(self.rate),
            self.spread * 100.0,
            short(self.cpu),
            short(self.p50),
            short(self.p99),
        )
    }

    fn json(&self) -> String {
        let Self { rate, spread, cpu, p50, p99 } = self;
        format!(
            r#"{{"ops_per_s":{rate:.0},"spread":{spread:.3},"cpu_us_per_op":{cpu:.3},"p50_us":{p50:.1},"p99_us":{p99:.1}}}"#
        )
    }
}

/// Both contestants in one shape.
pub(crate) struct Row {
    pub(crate) shape: Shape,
    pub(crate) oarlock: Cell,
    pub(crate) raft_rs: Cell,
}

impl Row {
    fn ratio(&self) -> f64 {
        self.oarlock.rate / self.raft_rs.rate
    }
}

fn name(shape: Shape) -> String {
    match shape {
        Shape::Window(window) => format!("window {window}"),
        Shape::Threads(threads) => format!("threads {threads}"),
    }
}

pub(crate) fn print_header(place: Place, bytes: usize) {
    let peer = match place {
        Place::Memory => "raft-rs",
        Place::Disk => "raft-rs + raft-engine",
    };
    println!("\n{}, {bytes} B: ops/s ±spread · CPU µs/op · p50/p99 µs\n", place.name());
    println!("| | Oarlock | {peer} | ratio |\n|---|---|---|---|");
}

pub(crate) fn print_row(row: &Row) {
    let Row { shape, oarlock, raft_rs } = row;
    println!(
        "| {} | {} | {} | {:.2} |",
        name(*shape),
        oarlock.print(),
        raft_rs.print(),
        row.ratio()
    );
}

/// One object in a line.
pub(crate) fn print_json(place: Place, bytes: usize, row: &Row) {
    let (kind, in_flight) = match row.shape {
        Shape::Window(window) => ("window", window),
        Shape::Threads(threads) => ("threads", threads),
    };
    println!(
        r#"{{"place":"{}","bytes":{bytes},"shape":"{kind}","in_flight":{in_flight},"oarlock":{},"raft_rs":{},"ratio":{:.3}}}"#,
        place.name(),
        row.oarlock.json(),
        row.raft_rs.json(),
        row.ratio(),
    );
}

/// The value below which `part` of the sorted values lie.
fn quantile<T: Copy>(sorted: &[T], part: f64) -> T {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
    let at = ((sorted.len() - 1) as f64 * part).round() as usize;
    sorted[at]
}

fn microseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

fn thousands(rate: f64) -> String {
    if rate >= 1e6 {
        format!("{:.2}M", rate / 1e6)
    } else if rate >= 1e5 {
        format!("{:.0}k", rate / 1e3)
    } else {
        format!("{:.1}k", rate / 1e3)
    }
}

/// Two or three digits that matter.
fn short(value: f64) -> String {
    if value < 10.0 { format!("{value:.2}") } else { format!("{value:.0}") }
}
