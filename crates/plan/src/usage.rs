//! The averages of what is measured: how a row of samples becomes one [`Usage`].
//!
//! Each sample counts by how long it lasted, and for less the older it is: after `window` seconds for e^-1 of what
//! it counted at first. So a spike that is much shorter than the window moves little, and a change that lasts is
//! seen fully after some two windows.
//!
//! While a measurement is young, the weights of the samples that there are sum up to 1 all the same: the first
//! seconds of a guest that boots do not count as if it had always been so. (This is the bias correction of Adam,
//! Kingma and Ba 2015, section 3, for a decay by time instead of by step; with an old measurement it is the plain
//! exponential average `average + (sample − average) × (1 − e^(−dt/window))`.)

use std::time::Duration;

use model::Usage;

/// An average over time, and for how long it was measured.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Average {
    pub usage: Usage,
    pub measured: Duration,
}

impl Average {
    /// Takes in what was used during the last `span`: rates as their mean over it, memory as it is at its end.
    /// A span of nothing changes nothing; a window of nothing forgets all but the last sample.
    pub fn take(&mut self, sample: Usage, span: Duration, window: Duration) {
        if span.is_zero() {
            return;
        }
        self.measured += span;
        let weight = weight(span, self.measured, window);
        let mix = |average: f64, sample: f64| average + (sample - average) * weight;
        self.usage = Usage {
            cpu: mix(self.usage.cpu, sample.cpu),
            memory: mix(self.usage.memory, sample.memory),
            disk: mix(self.usage.disk, sample.disk),
            network: mix(self.usage.network, sample.network),
        };
    }

    /// Whole seconds, as reports say it.
    pub fn measured_s(&self) -> u32 {
        u32::try_from(self.measured.as_secs()).unwrap_or(u32::MAX)
    }
}

/// What the last `span` of `measured` counts for, between 0 and 1.
fn weight(span: Duration, measured: Duration, window: Duration) -> f64 {
    if window.is_zero() {
        return 1.0;
    }
    let share = |of: Duration| -(-of.as_secs_f64() / window.as_secs_f64()).exp_m1();
    (share(span) / share(measured)).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(300);
    const EVERY: Duration = Duration::from_secs(5);

    fn cores(cpu: f64) -> Usage {
        Usage { cpu, ..Usage::default() }
    }

    /// Samples of `cpu` cores for so long.
    fn run(average: &mut Average, cpu: f64, seconds: u64) {
        for _ in 0..seconds / EVERY.as_secs() {
            average.take(cores(cpu), EVERY, WINDOW);
        }
    }

    #[test]
    fn what_is_constant_is_its_own_average_from_the_first_sample_on() {
        let mut average = Average::default();
        for _ in 0..1000 {
            average.take(cores(0.7), EVERY, WINDOW);
            assert!((average.usage.cpu - 0.7).abs() < 1e-9, "{average:?}");
        }
        assert_eq!(average.measured_s(), 5000);
    }

    #[test]
    fn a_spike_of_thirty_seconds_moves_little_and_is_forgotten() {
        let mut average = Average::default();
        run(&mut average, 0.1, 3600);
        run(&mut average, 4.0, 30);
        let spiked = average.usage.cpu;
        assert!(spiked < 0.5, "a tenth of a window counts for a tenth: {spiked}");
        run(&mut average, 0.1, 1800);
        assert!(average.usage.cpu < 0.102, "{average:?}");
    }

    #[test]
    fn a_load_that_lasts_is_seen() {
        let mut average = Average::default();
        run(&mut average, 0.1, 3600);
        run(&mut average, 1.0, 300);
        assert!((average.usage.cpu - (0.1 + 0.9 * 0.632)).abs() < 0.001, "{average:?}");
        run(&mut average, 1.0, 1200);
        assert!(average.usage.cpu > 0.99, "{average:?}");
    }

    #[test]
    fn a_boot_does_not_count_as_if_it_had_always_been_so() {
        let mut average = Average::default();
        run(&mut average, 2.0, 20);
        run(&mut average, 0.0, 280);
        assert!(average.usage.cpu < 0.1, "20 s of a window's 300, and the oldest ones: {average:?}");
    }

    #[test]
    fn the_pace_of_the_samples_does_not_matter() {
        let (mut often, mut seldom) = (Average::default(), Average::default());
        for (cpu, seconds) in [(0.5, 60), (2.0, 20), (0.0, 600), (1.0, 100)] {
            run(&mut often, cpu, seconds);
            seldom.take(cores(cpu), Duration::from_secs(seconds), WINDOW);
        }
        assert!((often.usage.cpu - seldom.usage.cpu).abs() < 1e-9, "{often:?} {seldom:?}");
    }

    #[test]
    fn odd_spans_do_no_harm() {
        let mut average = Average::default();
        average.take(cores(3.0), Duration::ZERO, WINDOW);
        assert_eq!(average, Average::default());
        average.take(cores(3.0), EVERY, Duration::ZERO);
        average.take(cores(1.0), EVERY, Duration::ZERO);
        assert!((average.usage.cpu - 1.0).abs() < f64::EPSILON);
    }
}
