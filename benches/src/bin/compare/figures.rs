//! What was measured.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use tun_benches::statistics::median;

use crate::contender::Contender;
use crate::measure::Measure;

/// All figures, in the order in which they were taken.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Figures(Vec<Figure>);

/// One quantity of all contenders.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Figure {
    pub(crate) measure: Measure,
    /// What it is, with its unit.
    pub(crate) name: String,
    /// The value of each round.
    rounds: BTreeMap<Contender, Vec<f64>>,
}

/// One value.
#[derive(Debug)]
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) value: f64,
}

/// The part of a JSON report that is read again.
#[derive(Debug, Deserialize)]
struct Kept {
    figures: Figures,
}

impl Figures {
    /// The figures in this file, if there is one, without those of measures that are taken anew.
    ///
    /// # Errors
    /// The file is no report.
    pub(crate) fn kept(file: Option<&Path>, anew: &[Measure]) -> Result<Self> {
        let Some(file) = file.filter(|file| file.exists()) else { return Ok(Self::default()) };
        let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        let Kept { mut figures } =
            serde_json::from_str(&text).with_context(|| format!("{} is no report", file.display()))?;
        figures.0.retain(|figure| !anew.contains(&figure.measure));
        Ok(figures)
    }

    /// Takes the samples of a round. What came to nothing, such as the cost of no bytes, is no sample.
    pub(crate) fn add(&mut self, measure: Measure, contender: Contender, round: usize, samples: Vec<Sample>) {
        for Sample { name, value } in samples.into_iter().filter(|sample| sample.value.is_finite()) {
            eprintln!("{measure}, round {round}: {}: {name}: {}", contender.name(), digits(value));
            let known = self.0.iter().position(|figure| figure.measure == measure && figure.name == name);
            let at = known.unwrap_or_else(|| {
                self.0.push(Figure { measure, name, rounds: BTreeMap::new() });
                self.0.len() - 1
            });
            if let Some(figure) = self.0.get_mut(at) {
                figure.rounds.entry(contender).or_default().push(value);
            }
        }
    }

    /// All of them, by measure.
    pub(crate) fn all(&self) -> Vec<&Figure> {
        let mut all: Vec<&Figure> = self.0.iter().collect();
        all.sort_by_key(|figure| figure.measure);
        all
    }

    /// The median of one quantity of one contender.
    pub(crate) fn median(&self, name: &str, contender: Contender) -> Option<f64> {
        self.0.iter().find(|figure| figure.name == name)?.median(contender)
    }
}

impl Figure {
    /// The median of its rounds.
    pub(crate) fn median(&self, contender: Contender) -> Option<f64> {
        let values = self.rounds.get(&contender)?;
        (!values.is_empty()).then(|| median(values.iter().copied()))
    }
}

impl Sample {
    pub(crate) fn new(name: impl Into<String>, value: f64) -> Self {
        Self { name: name.into(), value }
    }
}

/// A value with three digits that count, and all of those in front of the point.
pub(crate) fn digits(value: f64) -> String {
    let decimals = match value.abs() {
        v if v >= 100.0 || v == 0.0 => 0,
        v if v >= 10.0 => 1,
        v if v >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.decimals$}")
}
