//! Writes a zoo of noise for benchmarks: `cargo run --release -p zoo-pack --example synthetic_zoo -- DIR MODELS [STATES]`.

fn main() {
    let mut args = std::env::args().skip(1);
    let dir = args.next().expect("DIR");
    let number = |a: Option<String>, default| a.map_or(default, |a| a.parse().expect("a number"));
    let (models, states) = (number(args.next(), 10), number(args.next(), 51));
    let name = std::path::Path::new(&dir).file_name().expect("a name").to_string_lossy().into_owned();
    zoo_model::synthetic::write(dir.as_ref(), &name, models, states).expect("a writable folder");
}
