//! Every format against `gguf.quants`: `tools/witness_blocks.py $WITNESS_DIR/blocks`.

use std::{env, fs, path::Path};

use web_rwkv_gguf::format::{Format, decode};

#[test]
fn blocks_equal_gguf() {
    let Some(dir) = env::var_os("WITNESS_DIR") else {
        println!("skipped: WITNESS_DIR is not set");
        return;
    };
    let dir = Path::new(&dir).join("blocks");
    let read = |name: String| fs::read(dir.join(&name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    for &format in Format::ALL {
        let name = format.name();
        let bytes = read(format!("{name}.bin"));
        let want = read(format!("{name}.f32"));
        let (want, rest) = want.as_chunks::<4>();
        assert!(rest.is_empty() && want.len() >= 64 * format.block_len(), "{name}: too few values");
        assert_eq!(format.row_bytes(want.len()), Some(bytes.len()), "{name}");

        let mut got = vec![f32::NAN; want.len()];
        decode(format, &bytes, &mut got);
        for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
            let want = f32::from_le_bytes(want);
            let same = got.to_bits() == want.to_bits() || (got == 0.0 && want == 0.0);
            assert!(same, "{name}[{i}]: expected {want:e}, found {got:e}");
        }
    }
}
