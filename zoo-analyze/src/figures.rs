//! The report's figures, as SVG.

use plotters::prelude::*;
use plotters::style::colors::colormaps::ViridisRGB;

use zoo_model::text::{counted, fixed, percent};

use crate::diversity::{Distribution, Diversity, Map, TensorOverTime};

/// Width of a figure in pixels.
const WIDTH: u32 = 760;
/// Height of a figure in pixels.
const HEIGHT: u32 = 380;

const FONT: &str = "sans-serif";
const BLUE: RGBColor = RGBColor(38, 92, 156);
const GREY: RGBColor = RGBColor(140, 149, 159);
const GRID: RGBColor = RGBColor(225, 228, 232);

/// A figure: the stem of its file's name, what it shows, and the SVG.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Figure {
    /// Stem of the file's name.
    pub name: &'static str,
    /// What it shows.
    pub caption: String,
    /// The SVG document.
    pub svg: String,
}

/// Names of all figures.
pub const NAMES: [&str; 6] = ["accuracy", "gap", "hyperparameters", "weights", "map", "twins"];

/// All figures for which the diversity has values.
pub fn figures(diversity: &Diversity) -> Vec<Figure> {
    let mut figures = Vec::new();
    let mut push = |name, caption: &str, svg: Option<String>| {
        figures.extend(svg.map(|svg| Figure { name, caption: caption.to_owned(), svg }));
    };
    let by_epoch: Vec<(f64, Distribution)> =
        diversity.epochs.iter().map(|(epoch, p)| (f64::from(*epoch), p.accuracy)).collect();
    push(
        "accuracy",
        "Test accuracy after every kept epoch: boxes from the 25 to the 75 percentile with the median, whiskers to the 5 and 95 percentile.",
        boxes(&by_epoch, "epoch", "test accuracy", Some((0.0, 1.0))),
    );
    let gaps: Vec<(f64, Distribution)> =
        diversity.epochs.iter().filter_map(|(epoch, p)| Some((f64::from(*epoch), p.gap?))).collect();
    push(
        "gap",
        "Generalisation gap, training minus test accuracy, after every kept epoch.",
        boxes(&gaps, "epoch", "training - test accuracy", None),
    );
    let values: Vec<Row> = diversity
        .hyperparameters
        .iter()
        .map(|h| Row { group: short(&h.key), label: h.value.clone(), values: h.performance.accuracy })
        .collect();
    push(
        "hyperparameters",
        "Test accuracy after the last epoch by hyperparameter: median, 25 to 75 and 5 to 95 percentile.",
        rows(&values, "test accuracy"),
    );
    push(
        "weights",
        "Weights over time: standard deviation within a tensor, median over all models, by layer and kind.",
        lines(&diversity.tensors),
    );
    let left_out = match diversity.map.as_ref().map_or(0, |m| m.left_out) {
        0 => String::new(),
        n => format!(" Left out: {} whose weights exploded.", counted(n, "model")),
    };
    push(
        "map",
        &format!("States of some models on their first two principal components, lines along a model's training, coloured by test accuracy (dark: low, yellow: high, grey: not known). A circle is the last state. Axes leave out the outermost percent.{left_out}"),
        diversity.map.as_ref().and_then(map),
    );
    let twins: Vec<Row> = diversity
        .twins
        .iter()
        .filter_map(|t| Some(Row { group: "sparsity", label: percent(t.sparsity.mean), values: t.accuracy? }))
        .collect();
    push("twins", "Test accuracy of the sparse twins by mean sparsity.", rows(&twins, "test accuracy"));
    figures
}

/// `optim::lr` without what stands before the last colon.
pub fn short(key: &str) -> &str {
    key.rsplit(':').next().unwrap_or(key)
}

type Failure = Box<dyn std::error::Error>;

/// Draws into an SVG of this height; drawing into a string cannot fail but by a mistake in here.
fn svg(height: u32, draw: impl FnOnce(&Area<'_>) -> Result<(), Failure>) -> Option<String> {
    let mut out = String::new();
    {
        let area = SVGBackend::with_string(&mut out, (WIDTH, height)).into_drawing_area();
        area.fill(&WHITE).ok()?;
        draw(&area).ok()?;
        area.present().ok()?;
    }
    Some(out)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

/// A range that contains all values, with a margin.
fn padded_range(values: impl IntoIterator<Item = f64>) -> Option<(f64, f64)> {
    let values = values.into_iter().filter(|v| v.is_finite());
    let (low, high) = values.fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(v), high.max(v)));
    let margin = ((high - low) * 0.05).max(1e-6);
    (low <= high).then_some((low - margin, high + margin))
}

/// Box plots at places of a numeric axis.
fn boxes(at: &[(f64, Distribution)], x_label: &str, y_label: &str, y_range: Option<(f64, f64)>) -> Option<String> {
    let (x_low, x_high) = padded_range(at.iter().map(|(x, _)| *x))?;
    let step = at.windows(2).map(|w| w[1].0 - w[0].0).fold(f64::MAX, f64::min).min(1.0);
    let (low, high) =
        y_range.or_else(|| padded_range(at.iter().flat_map(|(_, d)| [d.quantiles[1], d.quantiles[5]])))?;
    svg(HEIGHT, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .x_label_area_size(42)
            .y_label_area_size(60)
            .build_cartesian_2d(x_low - step..x_high + step, low..high)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .x_desc(x_label)
            .y_desc(y_label)
            .label_style((FONT, 14))
            .axis_desc_style((FONT, 15))
            .x_label_formatter(&|x| fixed(*x, 0))
            .y_label_formatter(&|y| fixed(*y, 2))
            .draw()?;
        let half = step * 0.36;
        for (x, d) in at {
            let [_, q5, q25, q50, q75, q95, _] = d.quantiles;
            chart.draw_series([
                PathElement::new(vec![(*x, q5), (*x, q25)], BLUE.stroke_width(1)),
                PathElement::new(vec![(*x, q75), (*x, q95)], BLUE.stroke_width(1)),
            ])?;
            chart.draw_series([
                Rectangle::new([(x - half, q25), (x + half, q75)], BLUE.mix(0.25).filled()),
                Rectangle::new([(x - half, q25), (x + half, q75)], BLUE.stroke_width(1)),
            ])?;
            chart.draw_series([PathElement::new(vec![(x - half, q50), (x + half, q50)], BLUE.stroke_width(2))])?;
        }
        Ok(())
    })
}

/// A horizontal box plot.
struct Row<'a> {
    group: &'a str,
    label: String,
    values: Distribution,
}

/// Horizontal box plots in rows.
fn rows(rows: &[Row], x_label: &str) -> Option<String> {
    const ROW: u32 = 22;
    if rows.is_empty() {
        return None;
    }
    let (low, high) = padded_range(rows.iter().flat_map(|row| [row.values.quantiles[1], row.values.quantiles[5]]))?;
    let count = rows.len();
    svg(ROW * count as u32 + 70, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .x_label_area_size(42)
            .y_label_area_size(220)
            .build_cartesian_2d(low..high, 0.0..count as f64)?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .x_desc(x_label)
            .y_labels(0)
            .label_style((FONT, 14))
            .axis_desc_style((FONT, 15))
            .x_label_formatter(&|x| fixed(*x, 2))
            .draw()?;
        let mut last = "";
        for (i, Row { group, label, values }) in rows.iter().enumerate() {
            let y = (count - 1 - i) as f64 + 0.5;
            let [_, q5, q25, q50, q75, q95, _] = values.quantiles;
            chart.draw_series([
                PathElement::new(vec![(q5, y), (q25, y)], BLUE.stroke_width(1)),
                PathElement::new(vec![(q75, y), (q95, y)], BLUE.stroke_width(1)),
            ])?;
            chart.draw_series([
                Rectangle::new([(q25, y - 0.3), (q75, y + 0.3)], BLUE.mix(0.25).filled()),
                Rectangle::new([(q25, y - 0.3), (q75, y + 0.3)], BLUE.stroke_width(1)),
            ])?;
            chart.draw_series([PathElement::new(vec![(q50, y - 0.3), (q50, y + 0.3)], BLUE.stroke_width(2))])?;
            let top = 12 + (i as i32) * (ROW as i32) + 4;
            if *group != last {
                area.draw_text(&clip(group, 16), &(FONT, 14).into_text_style(area), (12, top))?;
                last = group;
            }
            area.draw_text(&clip(label, 16), &(FONT, 14).into_text_style(area), (122, top))?;
        }
        Ok(())
    })
}

fn clip(text: &str, max_chars: usize) -> String {
    if text.chars().count() <= max_chars {
        return text.to_owned();
    }
    text.chars().take(max_chars - 1).chain(['…']).collect()
}

/// Standard deviations over epochs, one line per tensor.
fn lines(tensors: &[TensorOverTime]) -> Option<String> {
    let points = || tensors.iter().flat_map(|t| &t.epochs);
    let (x_low, x_high) = padded_range(points().map(|p| f64::from(p.0)))?;
    let (low, high) = padded_range(points().map(|p| p.2))?;
    svg(HEIGHT, |area| {
        let (plot, key) = area.split_horizontally(WIDTH - 130);
        let mut chart = ChartBuilder::on(&plot)
            .margin(12)
            .x_label_area_size(42)
            .y_label_area_size(60)
            .build_cartesian_2d(x_low..x_high, low.max(0.0)..high)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .x_desc("epoch")
            .y_desc("standard deviation")
            .label_style((FONT, 14))
            .axis_desc_style((FONT, 15))
            .x_label_formatter(&|x| fixed(*x, 0))
            .draw()?;
        // Many tensors: the key names the first of them only.
        for (i, tensor) in tensors.iter().enumerate() {
            let (layers, layer) = (tensors.len().div_ceil(2).max(2) - 1, i / 2);
            let color = ViridisRGB.get_color(layer as f64 / layers as f64 * 0.9);
            let is_bias = tensor.tensor.ends_with("bias");
            let line: Vec<(f64, f64)> = tensor.epochs.iter().map(|p| (f64::from(p.0), p.2)).collect();
            if is_bias {
                chart.draw_series(plotters::series::DashedLineSeries::new(line, 5, 4, color.stroke_width(2)))?;
            } else {
                chart.draw_series([PathElement::new(line, color.stroke_width(2))])?;
            }
            if i < 16 {
                let y = 24 + 20 * i as i32;
                let until = if is_bias { 10 } else { 22 };
                key.draw(&PathElement::new(vec![(0, y), (until, y)], color.stroke_width(2)))?;
                key.draw_text(&tensor.tensor, &(FONT, 14).into_text_style(&key), (30, y - 8))?;
            }
        }
        Ok(())
    })
}

/// The map of trajectories.
fn map(map: &Map) -> Option<String> {
    let range = |axis: usize| {
        let mut values: Vec<f64> = map.points.iter().map(|p| p.at[axis]).collect();
        values.sort_unstable_by(f64::total_cmp);
        padded_range([0.01, 0.99].map(|q| crate::statistics::quantile(&values, q)))
    };
    let ((x_low, x_high), (y_low, y_high)) = (range(0)?, range(1)?);
    let accuracies = || map.points.iter().filter_map(|p| p.accuracy);
    let (worst, best) = (accuracies().fold(f64::MAX, f64::min), accuracies().fold(f64::MIN, f64::max));
    let color = |accuracy: Option<f64>| match accuracy {
        Some(accuracy) => ViridisRGB.get_color((accuracy - worst) / (best - worst).max(1e-9)),
        None => GREY,
    };
    let inside = |at: [f64; 2]| (x_low..=x_high).contains(&at[0]) && (y_low..=y_high).contains(&at[1]);
    svg(520, |area| {
        let (plot, key) = area.split_horizontally(WIDTH - 90);
        let mut chart = ChartBuilder::on(&plot)
            .margin(12)
            .x_label_area_size(42)
            .y_label_area_size(60)
            .build_cartesian_2d(x_low..x_high, y_low..y_high)?;
        let [first, second] = map.explained.map(|share| 100.0 * share);
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .x_desc(format!("first component ({first:.0} % of the variance)"))
            .y_desc(format!("second component ({second:.0} %)"))
            .label_style((FONT, 14))
            .axis_desc_style((FONT, 15))
            .draw()?;
        for trajectory in map.points.chunk_by(|a, b| a.id == b.id) {
            for step in trajectory.windows(2).filter(|w| inside(w[0].at) && inside(w[1].at)) {
                let ends = step.iter().map(|p| (p.at[0], p.at[1])).collect::<Vec<_>>();
                chart.draw_series([PathElement::new(ends, color(step[1].accuracy).stroke_width(1))])?;
            }
            if let Some(last) = trajectory.last().filter(|p| inside(p.at)) {
                chart.draw_series([Circle::new((last.at[0], last.at[1]), 4, color(last.accuracy).filled())])?;
            }
        }
        if accuracies().next().is_none() {
            return Ok(());
        }
        const STEPS: i32 = 50;
        for i in 0..STEPS {
            let t = f64::from(i) / f64::from(STEPS - 1);
            let y = 440 - 8 * i;
            key.draw(&Rectangle::new([(8, y - 8), (24, y)], ViridisRGB.get_color(t).filled()))?;
        }
        let style = (FONT, 14).into_text_style(&key);
        key.draw_text(&fixed(worst, 2), &style, (30, 430))?;
        key.draw_text(&fixed(best, 2), &style, (30, 40))?;
        key.draw_text("accuracy", &style, (8, 14))?;
        Ok(())
    })
}
