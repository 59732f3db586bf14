//! Any bytes as each of the small files of a zoo, and as a safetensors header.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zoo_model::safetensors_file::Header;
use zoo_model::states::check_header;
use zoo_model::zoo_dir::{parse_checksums, ZooRecord};
use zoo_model::{result, Hyperparameters, Params};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(params) = Params::from_json(bytes) {
        let _ = params.network();
        assert_eq!(Params::from_json(params.to_json().as_bytes()).expect("round trip").id, params.id);
    }
    if let Ok(lines) = result::from_json_lines(bytes) {
        result::from_json_lines(result::to_json_lines(&lines).as_bytes()).expect("round trip");
    }
    let _ = ZooRecord::from_json(bytes);
    let _ = parse_checksums(bytes);
    if let Ok(header) = Header::read(&mut &bytes[..]) {
        let network = Hyperparameters::default().network([1, 28, 28], 10).expect("28 pixels");
        let _ = (header.file_length(), check_header(&header, &network));
    }
});
