//! Tables in Markdown.

use std::fmt;

use crate::watch::Cost;

pub struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(head: &[&str]) -> Table {
        Table { head: head.iter().map(|name| (*name).to_owned()).collect(), rows: Vec::new() }
    }

    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(to, "| {} |", self.head.join(" | "))?;
        // The first column is a name, and the others are numbers.
        let lines = vec!["---:"; self.head.len().saturating_sub(1)];
        writeln!(to, "| --- | {} |", lines.join(" | "))?;
        for row in &self.rows {
            writeln!(to, "| {} |", row.join(" | "))?;
        }
        Ok(())
    }
}

/// Processor seconds, seconds, megabytes.
pub fn cost(cost: &Cost) -> [String; 3] {
    [seconds(cost.cpu), seconds(cost.wall), format!("{:.0}", cost.memory as f64 / 1e6)]
}

pub fn seconds(seconds: f64) -> String {
    if seconds < 10.0 { format!("{seconds:.2}") } else { format!("{seconds:.0}") }
}
