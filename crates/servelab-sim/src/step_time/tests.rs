use std::net::SocketAddr;

use super::*;
use crate::config::ServerConfig;
use crate::flags::parse_serving_flags;
use crate::settings::SimSettings;

fn model(name: &str, gpu: &str, line: &str) -> RooflineStepTime {
    let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    let mut settings = SimSettings::new(SocketAddr::from(([127, 0, 0, 1], 0)), name, gpu);
    settings.serving = parse_serving_flags(&args, "0.32.0").unwrap();
    RooflineStepTime::new(&ServerConfig::resolve(&settings).unwrap()).unwrap()
}
