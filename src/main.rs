use headcount::config::Config;
use headcount::server::{Banner, Options, Takeover, run};
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let config = match a.iter().position(|x| x == "--config") {
        Some(i) => Config::load(std::path::Path::new(&a[i + 1])),
        None => Ok(Config::default()),
    };
    let r = config.map_err(|e| (e.to_string(), 78)).and_then(|config| {
        run(Options { config, takeover: Takeover::Refused, banner: Banner::Shown })
            .map_err(|e| (e.to_string(), e.exit_code()))
    });
    if let Err((e, c)) = r {
        eprintln!("error: {e}");
        std::process::exit(c.into());
    }
}
