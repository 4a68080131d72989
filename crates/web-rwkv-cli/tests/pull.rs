//! `web-rwkv pull` and models by name, against a server on this machine that speaks as the Hugging Face hub does.

#![cfg(feature = "hub")]

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Arc, Mutex},
    thread,
};

use sha2::{Digest, Sha256};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const TEXT: &[u8] = b"a small file\n";
/// `git hash-object` of [`TEXT`].
const TEXT_SHA1: &str = "68a4b0699c4c39c11300439fe60b7a2c7e1d777a";

/// What the hub has, and how it behaves.
#[derive(Clone, Default)]
struct Hub {
    files: Vec<(&'static str, Vec<u8>)>,
    commit: Option<&'static str>,
    /// The token that it asks for.
    token: Option<&'static str>,
    /// The checksum that it tells instead of the right one.
    checksum: Option<String>,
    /// After how many bytes each connection for a file is cut.
    cut: Vec<usize>,
    /// Whether it gives whole files only, whatever range is asked for.
    whole: bool,
}

/// A running hub, with what was asked of it: `PATH RANGE`.
struct Server {
    endpoint: String,
    hub: Arc<Mutex<Hub>>,
    asked: Arc<Mutex<Vec<String>>>,
    home: PathBuf,
}

impl Server {
    fn start(test: &str, hub: Hub) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("hub-{test}"));
        let _ = fs::remove_dir_all(&home); // of an earlier run
        fs::create_dir_all(&home).unwrap();
        let server = Self { endpoint, hub: Arc::new(Mutex::new(hub)), asked: Arc::default(), home };
        let (hub, asked, endpoint) = (server.hub.clone(), server.asked.clone(), server.endpoint.clone());
        thread::spawn(move || {
            for stream in listener.incoming() {
                // A client that goes away is its own matter.
                let _ = answer(&stream.unwrap(), &endpoint, &hub, &asked);
            }
        });
        server
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_web-rwkv"));
        command.env("HF_ENDPOINT", &self.endpoint).env("HF_HOME", &self.home).env_remove("HF_TOKEN");
        command.args(args).output().unwrap()
    }

    fn good(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// The one line of standard error of a run that must fail.
    fn bad(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), stderr.lines().count()), (Some(1), 1), "{args:?}: {stderr}");
        stderr
    }

    /// What was asked for files since the last call.
    fn ranges(&self) -> Vec<String> {
        let asked = std::mem::take(&mut *self.asked.lock().unwrap());
        let ranges = asked.iter().filter_map(|a| a.strip_prefix("/cdn/"));
        ranges.filter(|r| !r.ends_with(" bytes=0-0")).map(Into::into).collect()
    }

    fn change(&self, change: impl FnOnce(&mut Hub)) {
        change(&mut self.hub.lock().unwrap());
    }
}

/// Answers one request. Large files are on another server, as the hub has it: a redirection tells their checksum.
fn answer(
    mut stream: &TcpStream,
    endpoint: &str,
    hub: &Mutex<Hub>,
    asked: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let head: Vec<_> =
        BufReader::new(stream).lines().map_while(Result::ok).take_while(|l| !l.is_empty()).collect();
    let path = head[0].split(' ').nth(1).unwrap();
    let header = |name: &str| {
        let mut fields = head.iter().filter_map(|l| l.split_once(": "));
        fields.find(|(n, _)| n.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value)
    };
    asked.lock().unwrap().push(format!("{path} {}", header("range")));
    let mut hub = hub.lock().unwrap();
    let commit = hub.commit.unwrap_or(COMMIT);
    let mut respond = |status: &str, headers: &str, length: usize, body: &[u8]| {
        let close = "connection: close\r\n\r\n";
        write!(stream, "HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\n{close}")?;
        stream.write_all(body)
    };
    let denied = hub.token.is_some_and(|token| header("authorization") != format!("Bearer {token}"));
    if denied && !path.starts_with("/cdn/") {
        return respond("401 Unauthorized", "", 0, b"");
    }
    if path == "/api/models/RWKV/test/revision/main" {
        let siblings: Vec<_> = hub.files.iter().map(|(f, _)| format!("{{\"rfilename\": \"{f}\"}}")).collect();
        let info = format!("{{\"siblings\": [{}], \"sha\": \"{commit}\"}}", siblings.join(", "));
        return respond("200 OK", "", info.len(), info.as_bytes());
    }
    let found = path.strip_prefix("/RWKV/test/resolve/main/").or_else(|| path.strip_prefix("/cdn/"));
    let Some((file, bytes)) = found.and_then(|f| hub.files.iter().find(|(name, _)| *name == f)).cloned()
    else {
        return respond("404 Not Found", "", 0, b"");
    };
    let small = bytes == TEXT;
    let checksum = match (&hub.checksum, small) {
        (Some(checksum), _) => checksum.clone(),
        (None, true) => TEXT_SHA1.into(),
        (None, false) => sha256(&bytes),
    };
    if !small && !path.starts_with("/cdn/") {
        let linked = format!("x-linked-etag: \"{checksum}\"\r\nlocation: {endpoint}/cdn/{file}\r\n");
        return respond("302 Found", &format!("x-repo-commit: {commit}\r\n{linked}"), 0, b"");
    }
    let (from, to) = header("range").strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    let (from, all) = (from.parse::<usize>().unwrap(), bytes.len());
    let to = if to.is_empty() { all } else { to.parse::<usize>().unwrap() + 1 };
    if from >= all {
        return respond("416 Range Not Satisfiable", "", 0, b"");
    }
    if hub.whole && to == all {
        return respond("200 OK", "", all, &bytes);
    }
    let part = &bytes[from..to];
    let sent = match hub.cut.is_empty() || part.len() == 1 {
        true => part,
        false => &part[..hub.cut.remove(0).min(part.len())],
    };
    let range = format!("content-range: bytes {from}-{}/{all}\r\n", to - 1);
    let headers = format!("x-repo-commit: {commit}\r\netag: \"{checksum}\"\r\n{range}");
    respond("206 Partial Content", &headers, part.len(), sent)
}

fn embedded() -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/rwkv7-mail/rwkv7-mail-q4_k_m.gguf"))
        .unwrap()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// Bytes that are no model; nothing but `info` and the like asks what is in a file.
fn some_bytes() -> Vec<u8> {
    (0..200_000_u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect()
}

fn with(files: &[(&'static str, Vec<u8>)]) -> Hub {
    Hub { files: files.to_vec(), ..Hub::default() }
}

#[test]
fn a_name_is_a_model_wherever_a_path_goes() {
    let server = Server::start("name", with(&[("README.md", TEXT.to_vec()), ("m-Q4_K_M.gguf", embedded())]));
    let path = server.good(&["pull", "RWKV/test"]);
    assert!(path.ends_with(&format!("hub/models--RWKV--test/snapshots/{COMMIT}/m-Q4_K_M.gguf")), "{path}");
    assert_eq!(fs::read(&path).unwrap(), embedded());
    assert_eq!(server.ranges(), ["m-Q4_K_M.gguf bytes=0-"]);
    assert_eq!(server.good(&["pull", "RWKV/test:m-Q4_K_M.gguf"]), path);
    assert!(server.ranges().is_empty(), "it was there");

    // What is in the cache needs no hub.
    server.asked.lock().unwrap().clear();
    for name in ["RWKV/test", "RWKV/test:m-Q4_K_M.gguf"] {
        assert!(server.good(&["info", "--json", "--model", name]).contains("\"layers\":8"));
        assert!(server.good(&["info", "--json", name]).contains("\"layers\":8"));
    }
    assert!(!server.good(&["tokenize", "--model", "RWKV/test", "order"]).is_empty());
    assert!(server.asked.lock().unwrap().is_empty());

    // Without `pull` it is fetched when it is needed; nothing but the result is printed.
    fs::remove_dir_all(&server.home).unwrap();
    let args = ["info", "--json", "--model", "RWKV/test"];
    assert_eq!(server.good(&args).lines().count(), 1);
    assert_eq!(server.ranges().len(), 1);
}

#[test]
fn a_file_is_found_in_a_folder_and_renewed() {
    let files = [("a/b.gguf", some_bytes()), ("c.safetensors", TEXT.to_vec())];
    let server = Server::start("renewed", with(&files));
    let line = server.good(&["pull", "--json", "RWKV/test:a/b.gguf"]);
    assert!(line.contains("b.gguf") && line.ends_with("\"bytes\":800000}"), "{line}");
    let path = server.good(&["pull", "RWKV/test:c.safetensors"]);
    assert_eq!(
        fs::read(path).unwrap(),
        TEXT,
        "a small file has git's checksum and comes without redirection"
    );

    // Another version of the repository: what has not changed is not fetched again.
    server.ranges();
    server.change(|hub| {
        hub.commit = Some("89abcdef0123456789abcdef0123456789abcdef");
    });
    let path = server.good(&["pull", "RWKV/test:a/b.gguf"]);
    assert!(path.contains("89abcdef0123456789abcdef0123456789abcdef/a/b.gguf"), "{path}");
    assert_eq!((server.ranges().len(), fs::read(path).unwrap()), (0, some_bytes()));

    let other: Vec<u8> = some_bytes().into_iter().rev().collect();
    server.change(|hub| hub.files[0].1.clone_from(&other));
    server.change(|hub| hub.commit = Some("ffffffffffffffffffffffffffffffffffffffff"));
    assert_eq!(fs::read(server.good(&["pull", "RWKV/test:a/b.gguf"])).unwrap(), other);
}

#[test]
fn a_cut_connection_is_gone_on_with() {
    let mut hub = with(&[("m.gguf", some_bytes())]);
    // Twice something comes, then nothing.
    hub.cut = vec![1000, 300_000, 0];
    let server = Server::start("cut", hub);
    let error = server.bad(&["pull", "RWKV/test"]);
    assert!(error.starts_with(&format!("web-rwkv: RWKV/test: {}: ", server.endpoint)), "{error}");
    assert_eq!(server.ranges(), ["m.gguf bytes=0-", "m.gguf bytes=1000-", "m.gguf bytes=301000-"]);
    assert!(server.bad(&["info", "RWKV/test:absent.gguf"]).contains("404"), "nothing is taken for the model");
    let path = server.good(&["pull", "RWKV/test"]);
    assert_eq!(server.ranges(), ["m.gguf bytes=301000-"]);
    assert_eq!(fs::read(path).unwrap(), some_bytes());
}

#[test]
fn what_has_another_checksum_is_not_kept() {
    let mut hub = with(&[("m.gguf", some_bytes())]);
    hub.checksum = Some("ab".repeat(32));
    let server = Server::start("checksum", hub);
    for _ in 0..2 {
        let error = server.bad(&["info", "--model", "RWKV/test:m.gguf"]);
        let expected = format!("RWKV/test:m.gguf: m.gguf: expected the SHA-256 {}, found ", "ab".repeat(32));
        assert!(error.contains(&expected) && error.contains("removed"), "{error}");
        assert_eq!(server.ranges(), ["m.gguf bytes=0-"]);
    }
    // The rest of a file that has changed meanwhile, and a whole file in the place of the rest.
    server.change(|hub| hub.checksum = Some(sha256(&some_bytes())));
    for (spoil, expected) in [
        ((|hub| hub.files[0].1[2000] ^= 1) as fn(&mut Hub), "expected the SHA-256"),
        (|hub| hub.whole = true, "expected 800000 bytes, found 801000"),
    ] {
        server.change(|hub| hub.cut = vec![1000, 0]);
        server.bad(&["pull", "RWKV/test"]);
        server.change(spoil);
        assert!(server.bad(&["pull", "RWKV/test"]).contains(expected));
        server.ranges();
    }
    // A checksum is a name in the cache.
    for checksum in ["../../x", "W/abc", &"z".repeat(64)] {
        server.change(|hub| hub.checksum = Some(checksum.into()));
        let error = server.bad(&["pull", "RWKV/test"]);
        assert!(error.contains("checksum: expected 40 or 64 hexadecimal digits, found `"), "{error}");
    }
}

#[test]
fn what_is_left_of_a_download_may_be_anything() {
    let server = Server::start("left", with(&[("m.gguf", some_bytes())]));
    let sha = sha256(&some_bytes());
    let blobs = server.home.join("hub/models--RWKV--test/blobs");
    fs::create_dir_all(&blobs).unwrap();
    for length in [800_000, 900_000] {
        fs::write(blobs.join(format!("{sha}.part")), vec![0; length]).unwrap();
        let path = server.good(&["pull", "RWKV/test"]);
        assert_eq!(fs::read(&path).unwrap(), some_bytes());
        // A file that is cut or gone is fetched again.
        fs::write(blobs.join(&sha), b"").unwrap();
        assert_eq!(fs::read(server.good(&["pull", "RWKV/test"])).unwrap(), some_bytes());
        fs::remove_file(blobs.join(&sha)).unwrap();
    }
}

#[test]
fn a_private_model_takes_a_token() {
    let mut hub = with(&[("m.gguf", some_bytes())]);
    hub.token = Some("hf_secret");
    let server = Server::start("private", hub);
    for args in [["pull", "RWKV/test"], ["pull", "RWKV/test:m.gguf"], ["info", "RWKV/test"]] {
        let error = server.bad(&args);
        assert!(
            error.contains("status 401: there is no such model, or it takes a token, in HF_TOKEN"),
            "{error}"
        );
    }
    fs::write(server.home.join("token"), "hf_secret\n").unwrap();
    server.good(&["pull", "RWKV/test"]);
    fs::remove_dir_all(&server.home).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_web-rwkv"));
    command.env("HF_ENDPOINT", format!("{}/", server.endpoint)).env("HF_HOME", &server.home);
    let output = command.env("HF_TOKEN", "hf_secret").args(["pull", "RWKV/test"]).output().unwrap();
    assert!(output.status.success());
}

#[test]
fn errors_are_one_line_that_says_what_to_do() {
    let files = [("a.gguf", some_bytes()), ("b/c.gguf", some_bytes()), ("config.json", TEXT.to_vec())];
    let server = Server::start("errors", with(&files));
    for (name, expected) in [
        ("RWKV/test", "RWKV/test: expected one model, found a.gguf, b/c.gguf; RWKV/test:FILE names one"),
        ("RWKV/test:d.gguf", "status 404: there is no such file"),
        ("RWKV/absent", "status 404"),
    ] {
        assert!(server.bad(&["pull", name]).contains(expected), "{name}");
        let error = server.bad(&["info", "--model", name]);
        assert!(error.contains(expected), "{error}");
        assert_eq!(error.ends_with("; and there is no such file\n"), !name.contains(':'), "{error}");
    }
    server.change(|hub| hub.files.clear());
    assert!(server.bad(&["pull", "RWKV/test"]).contains("expected one model, found none"));
    server.change(|hub| hub.files.push(("../../evil.gguf", some_bytes())));
    assert!(server.bad(&["pull", "RWKV/test"]).contains("expected one model, found ../../evil.gguf"));
    server.change(|hub| hub.commit = Some("../../.."));
    server.change(|hub| hub.files = vec![("a.gguf", some_bytes())]);
    assert!(server.bad(&["pull", "RWKV/test"]).contains("commit: expected 40 or 64 hexadecimal digits"));
    // A missing file is no name.
    let error = server.bad(&["info", "--model", "models/absent.gguf"]);
    assert!(error.starts_with("web-rwkv: models/absent.gguf: "), "{error}");
    for name in ["absent", "a/b/c", "RWKV/test:../x"] {
        assert_eq!(server.run(&["pull", name]).status.code(), Some(2), "{name}");
    }
}

#[test]
fn a_hub_that_is_away_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = Server::start("away", Hub::default());
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let away = Server { endpoint, ..server };
    for args in [["pull", "RWKV/test"], ["info", "RWKV/test:m.gguf"]] {
        let error = away.bad(&args);
        assert!(error.contains(&away.endpoint) && error.contains("refused"), "{error}");
    }
}
