//! A picture for each workload: which share of requests had their first token within which time, on a logarithmic scale.

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use crate::matrix::Table;
use crate::statistics::percentile;
use crate::workload::Workload;

const WIDTH: u32 = 1200;
const HEIGHT: u32 = 420;
/// Points of a curve; percentiles in steps of half a percent are as fine as the picture.
const POINTS: usize = 200;
/// Told apart also by those who don't see red or green well (Okabe and Ito), and black.
const COLOURS: [RGBColor; 9] = [
    RGBColor(0, 0, 0),
    RGBColor(153, 153, 153),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 114, 178),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(213, 94, 0),
    RGBColor(220, 20, 60),
];

/// Draws a workload's loads side by side.
pub fn draw(workload: &Workload, tables: &[Table]) -> Result<String> {
    let mut picture = String::new();
    {
        let area = SVGBackend::with_string(&mut picture, (WIDTH, HEIGHT)).into_drawing_area();
        area.fill(&WHITE)?;
        for (panel, table) in area.split_evenly((1, tables.len().max(1))).iter().zip(tables) {
            draw_panel(panel, workload, table).map_err(|error| anyhow!("{}: {error}", workload.name))?;
        }
        area.present()?;
    }
    Ok(picture)
}

type Panel<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn draw_panel(panel: &Panel<'_>, workload: &Workload, table: &Table) -> Result<()> {
    let times = || table.rows.iter().flat_map(|(_, summary)| &summary.first_tokens).copied();
    let (least, most) = (times().fold(f64::INFINITY, f64::min), times().fold(1.0, f64::max));
    let mut chart = ChartBuilder::on(panel)
        .caption(format!("{}, {} %", workload.name, table.load), ("sans-serif", 16))
        .margin(10)
        .x_label_area_size(36)
        .y_label_area_size(40)
        .build_cartesian_2d((least.clamp(1.0, most * 0.5)..most).log_scale(), 0.0..1.0)?;
    chart
        .configure_mesh()
        .x_desc("time to first token, ms")
        .x_labels(4)
        .y_labels(6)
        .x_label_formatter(&|millis| format!("{millis:.0}"))
        .y_label_formatter(&|share| format!("{share:.1}"))
        .light_line_style(TRANSPARENT)
        .draw()?;
    for (index, (name, summary)) in table.rows.iter().enumerate() {
        let colour = COLOURS.get(index % COLOURS.len()).copied().unwrap_or(BLACK);
        let points = (1..=POINTS).map(|point| {
            let share = point as f64 / POINTS as f64;
            (percentile(&summary.first_tokens, share), share)
        });
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(2)))?
            .label(*name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
    }
    let legend = SeriesLabelPosition::LowerRight;
    chart.configure_series_labels().position(legend).background_style(WHITE.mix(0.8)).border_style(BLACK).draw()?;
    Ok(())
}
