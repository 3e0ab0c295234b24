//! The loss curve as a picture.

use std::path::Path;

use plotters::{
    chart::{ChartBuilder, LabelAreaPosition},
    prelude::{IntoDrawingArea, SVGBackend},
    series::LineSeries,
    style::{BLACK, Color, RGBColor, WHITE},
};

use super::Record;
use crate::{Error, Result};

const SIZE: (u32, u32) = (800, 480);
const TRAINING: RGBColor = RGBColor(120, 150, 200);
const HELD_OUT: RGBColor = RGBColor(200, 70, 40);

/// Draws the losses of a log as an SVG file: training blue, held-out data red.
///
/// # Errors
/// [`Error::InvalidArgument`] if there is no loss to draw; [`Error::File`] if the file cannot be
/// written.
pub fn loss_curve(records: &[Record], title: &str, path: impl AsRef<Path>) -> Result<()> {
    let points = |value: fn(&Record) -> Option<f64>| -> Vec<(f64, f64)> {
        let point = |record: &Record| Some((as_f64(record.step), value(record)?));
        records
            .iter()
            .filter_map(point)
            .filter(|(_, loss)| loss.is_finite())
            .collect()
    };
    let (training, held_out) = (points(|r| r.loss), points(|r| r.held_out));
    let all = || training.iter().chain(&held_out);
    let last = all().map(|(step, _)| *step).fold(0.0, f64::max);
    let low = all().map(|(_, loss)| *loss).fold(f64::INFINITY, f64::min);
    let high = all()
        .map(|(_, loss)| *loss)
        .fold(f64::NEG_INFINITY, f64::max);
    if low > high {
        return Err(Error::invalid("loss_curve", "there is no loss to draw"));
    }
    let margin = ((high - low) * 0.05).max(1e-6);
    let path = path.as_ref();
    let mut picture = String::new();
    draw(
        &mut picture,
        title,
        last.max(1.0),
        (low - margin, high + margin),
        &training,
        &held_out,
    )
    .map_err(|error| Error::invalid("loss_curve", error))?;
    super::checkpoint::replace(path, |beside| {
        std::fs::write(beside, &picture).map_err(|source| Error::file("write", path, source))
    })
}

fn draw(
    picture: &mut String,
    title: &str,
    last: f64,
    (low, high): (f64, f64),
    training: &[(f64, f64)],
    held_out: &[(f64, f64)],
) -> Result<(), String> {
    let area = SVGBackend::with_string(picture, SIZE).into_drawing_area();
    let text = |error: &dyn std::fmt::Display| error.to_string();
    area.fill(&WHITE).map_err(|e| text(&e))?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 20))
        .margin(12)
        .set_label_area_size(LabelAreaPosition::Left, 56)
        .set_label_area_size(LabelAreaPosition::Bottom, 40)
        .build_cartesian_2d(0.0..last, low..high)
        .map_err(|e| text(&e))?;
    chart
        .configure_mesh()
        .light_line_style(BLACK.mix(0.05))
        .x_desc("steps")
        .y_desc("loss: training blue, held out red")
        .draw()
        .map_err(|e| text(&e))?;
    for (points, color) in [(training, TRAINING), (held_out, HELD_OUT)] {
        let series = LineSeries::new(points.iter().copied(), color.stroke_width(2));
        chart.draw_series(series).map_err(|e| text(&e))?;
    }
    drop(chart);
    area.present().map_err(|e| text(&e))
}

fn as_f64(step: u64) -> f64 {
    u32::try_from(step).map_or(f64::from(u32::MAX), f64::from)
}
