//! Tables, plots, the HTML report, terminal progress.
