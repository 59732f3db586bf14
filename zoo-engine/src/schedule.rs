//! Learning rate and momentum from step to step.

use zoo_model::Schedule;

/// What a step of an optimiser is taken with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// Learning rate.
    pub learning_rate: f64,
    /// Momentum of SGD, or Adam's beta 1.
    pub momentum: f64,
}

/// The rates of step `step` (from 0) of `total`, where `base` holds without a schedule.
///
/// One cycle is PyTorch's `OneCycleLR` with its defaults: 30 % of the steps from a 25th of the
/// largest learning rate up to it, the rest down to a 10,000th of the start, along half cosines;
/// momentum from 0.95 down to 0.85 and back.
pub fn rates(schedule: Schedule, base: Rates, step: u64, total: u64) -> Rates {
    match schedule {
        Schedule::Constant => base,
        Schedule::OneCycle => one_cycle(base, step, total),
    }
}

fn one_cycle(base: Rates, step: u64, total: u64) -> Rates {
    const WARM_UP: f64 = 0.3;
    let start = base.learning_rate / 25.0;
    let (low, high) = (0.85, 0.95);
    let (step, last) = (step as f64, total as f64 - 1.0);
    let peak = WARM_UP * total as f64 - 1.0;
    if step <= peak {
        let part = step / peak;
        return Rates { learning_rate: cosine(start, base.learning_rate, part), momentum: cosine(high, low, part) };
    }
    let part = ((step - peak) / (last - peak)).min(1.0);
    Rates { learning_rate: cosine(base.learning_rate, start / 1e4, part), momentum: cosine(low, high, part) }
}

/// From `start` to `end` along half a cosine; `libm`'s, whose bits are the same on every platform.
fn cosine(start: f64, end: f64, part: f64) -> f64 {
    end + (start - end) / 2.0 * (1.0 + libm::cos(std::f64::consts::PI * part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cycle_rises_falls_and_stays_at_its_end() {
        let base = Rates { learning_rate: 0.1, momentum: 0.9 };
        let at = |step| rates(Schedule::OneCycle, base, step, 10);
        assert!((at(0).learning_rate - 0.004).abs() < 1e-12 && (at(0).momentum - 0.95).abs() < 1e-12);
        assert!((at(2).learning_rate - 0.1).abs() < 1e-12 && (at(2).momentum - 0.85).abs() < 1e-12);
        assert!((at(9).learning_rate - 4e-7).abs() < 1e-12 && (at(9).momentum - 0.95).abs() < 1e-12);
        assert_eq!(at(11), at(9));
        assert_eq!(rates(Schedule::Constant, base, 3, 10), base);
        for total in 1..4 {
            assert!((0..total).all(|s| rates(Schedule::OneCycle, base, s, total).learning_rate > 0.0));
        }
    }

    #[test]
    fn halfway_up_and_down_a_cycle_is_the_mean_of_its_ends() {
        let base = Rates { learning_rate: 0.1, momentum: 0.9 };
        for (step, total, learning_rate) in [(1, 10, 0.052), (12, 20, 0.050_000_2)] {
            let found = rates(Schedule::OneCycle, base, step, total);
            assert!((found.learning_rate - learning_rate).abs() < 1e-12, "{step} of {total}: {found:?}");
            assert!((found.momentum - 0.9).abs() < 1e-12, "{step} of {total}: {found:?}");
        }
    }
}
