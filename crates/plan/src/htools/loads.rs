//! Files of dynamic load, as hbal's `-U` takes them: `name cpu memory disk network` on each line.

use super::parse::Damage;
use super::record::{Cluster, Utilisation};

const EXPECTED: &str =
    "a name and four numbers (CPU, memory, disk, network) are expected, with one blank between two";

/// Who uses how much; a name that stands twice counts as it stands last.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Loads {
    entries: Vec<(String, Utilisation)>,
}

impl Loads {
    /// # Errors
    /// The first line that is not such a line.
    pub fn parse(text: &str) -> Result<Loads, Damage> {
        let mut entries = Vec::new();
        for (line, number) in text.lines().zip(1..) {
            let damage = |found: String| Damage {
                line: number,
                section: None,
                field: None,
                found,
                expected: EXPECTED.to_owned(),
            };
            let parts: Vec<&str> = line.split(' ').collect();
            let [name, cpu, memory, disk, network] = parts.as_slice() else {
                return Err(damage(format!(
                    "it has {} parts",
                    if line.is_empty() { 0 } else { parts.len() }
                )));
            };
            let figure = |text: &str| match text.parse::<f64>() {
                Ok(value) if value.is_finite() && value >= 0.0 => Ok(value),
                Ok(value) if value < 0.0 => Err(damage(format!("{text} is negative"))),
                Ok(_) | Err(_) => Err(damage(format!("'{text}' is not a number"))),
            };
            let load = Utilisation {
                cpu: figure(cpu)?,
                memory: figure(memory)?,
                disk: figure(disk)?,
                network: figure(network)?,
            };
            entries.push(((*name).to_owned(), load));
        }
        Ok(Loads { entries })
    }
}

impl Cluster {
    /// Gives instances their load; those that the file does not name keep 1 each.
    ///
    /// Returns the names that are not in the cluster.
    pub fn set_loads(&mut self, loads: &Loads) -> Vec<String> {
        let mut strangers = Vec::new();
        let places: std::collections::BTreeMap<String, usize> =
            self.instances.iter().map(|instance| instance.name.clone()).zip(0..).collect();
        for (name, load) in &loads.entries {
            match places.get(name) {
                Some(&place) => {
                    let instance = &mut self.instances[place];
                    (instance.load, instance.measured) = (*load, true);
                }
                None => strangers.push(name.clone()),
            }
        }
        strangers
    }

    /// Takes every instance for idle.
    pub fn ignore_loads(&mut self) {
        for instance in &mut self.instances {
            instance.load = Utilisation::ZEROS;
        }
    }
}
