//! Models by name: `OWNER/REPO[:FILE]` on the Hugging Face hub, in the cache that its other tools share.
//!
//! A file is used once its checksum is the one that the hub tells. What a cut connection leaves behind is kept, and
//! the next download goes on from there.

use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
    str::FromStr,
};

use hf_hub::{
    Cache, Repo,
    api::sync::{Api, ApiBuilder, ApiError, Metadata},
};
use indicatif::{ProgressBar, ProgressStyle};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::{Result, progress::Progress};

const HUB: &str = "https://huggingface.co";
/// How the names of model files end, and those of vocabularies.
const MODELS: [&str; 4] = ["gguf", "safetensors", "st", "pth"];
const VOCABULARIES: [&str; 2] = ["txt", "json"];

/// A file on the hub; where `file` is left out, the only model of the repository.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Name {
    repo: String,
    file: Option<String>,
}

impl FromStr for Name {
    type Err = &'static str;

    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        let (repo, file) = match text.split_once(':') {
            Some((repo, file)) => (repo, Some(file)),
            None => (text, None),
        };
        let valid = repo.split('/').count() == 2 && is_plain(repo) && file.is_none_or(is_plain);
        let name = || Self { repo: repo.into(), file: file.map(Into::into) };
        valid.then(name).ok_or("expected OWNER/REPO or OWNER/REPO:FILE")
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.file {
            Some(file) => write!(f, "{}:{file}", self.repo),
            None => f.write_str(&self.repo),
        }
    }
}

/// Whether a path from the command line or the hub stays where it is put, and needs no escapes in a URL.
fn is_plain(path: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-+=@".contains(c);
    path.split('/').all(|part| !part.is_empty() && !part.starts_with('.') && part.chars().all(plain))
}

fn ends(file: &str, extensions: &[&str]) -> bool {
    Path::new(file).extension().is_some_and(|e| extensions.iter().any(|known| e == *known))
}

/// A file where a path is expected: the one at that path, or the one of that name, from the cache or else the hub.
pub(crate) fn local(path: &Path) -> Result<PathBuf> {
    let named = path.to_str().filter(|_| !path.exists()).and_then(|p| p.parse::<Name>().ok());
    // `models/x.gguf` is a file that is missing.
    let is_file = |name: &str| ends(name, &MODELS) || ends(name, &VOCABULARIES);
    let Some(name) = named.filter(|name| name.file.is_some() || !is_file(&name.repo)) else {
        return Ok(path.to_owned());
    };
    let source = Source::new(name)?;
    let fetched = source.cached().map_or_else(|| source.fetch(), Ok);
    match source.name.file {
        Some(_) => fetched,
        // Perhaps a path was meant.
        None => fetched.map_err(|e| format!("{e}; and there is no such file").into()),
    }
}

/// Brings the newest version of a file into the cache.
pub(crate) fn fetch(name: &Name) -> Result<PathBuf> {
    Source::new(name.clone())?.fetch()
}

/// A name, and what is asked about it.
struct Source {
    name: Name,
    repo: Repo,
    cache: Cache,
    endpoint: String,
    api: Api,
}

impl Source {
    fn new(name: Name) -> Result<Self> {
        let set = |variable| std::env::var(variable).ok().filter(|value: &String| !value.is_empty());
        let cache = Cache::from_env();
        let endpoint = set("HF_ENDPOINT").unwrap_or_else(|| HUB.into()).trim_end_matches('/').to_owned();
        let token = set("HF_TOKEN").or_else(|| cache.token());
        let builder = ApiBuilder::from_cache(cache.clone()).with_endpoint(endpoint.clone()).with_token(token);
        let api = builder.with_user_agent("web-rwkv", env!("CARGO_PKG_VERSION")).build()?;
        Ok(Self { repo: Repo::model(name.repo.clone()), name, cache, endpoint, api })
    }

    /// The file as it was fetched last; where none is named, the only model that was.
    fn cached(&self) -> Option<PathBuf> {
        if let Some(file) = &self.name.file {
            return self.cache.repo(self.repo.clone()).get(file);
        }
        let folder = self.cache.path().join(self.repo.folder_name());
        let commit = fs::read_to_string(folder.join("refs").join(self.repo.revision())).ok()?;
        let files = fs::read_dir(folder.join("snapshots").join(commit)).ok()?;
        let mut models = files.flatten().map(|f| f.path()).filter(|p| ends(&p.to_string_lossy(), &MODELS));
        models.next().filter(|_| models.next().is_none())
    }

    fn fetch(&self) -> Result<PathBuf> {
        let file = self.name.file.clone().map_or_else(|| self.only_model(), Ok)?;
        let url = self.api.repo(self.repo.clone()).url(&file);
        let told = self.api.metadata(&url).map_err(|e| self.error(e))?;
        // Both become names of files.
        for (what, hash) in [("commit", told.commit_hash()), ("checksum", told.etag())] {
            if !matches!(hash.len(), 40 | 64) || !hash.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(
                    self.says(format!("{what}: expected 40 or 64 hexadecimal digits, found `{hash}`"))
                );
            }
        }
        let repo = self.cache.repo(self.repo.clone());
        let blob = repo.blob_path(told.etag());
        let path = repo.pointer_path(told.commit_hash()).join(&file);
        let complete = |path: &Path| length(path) == Some(told.size() as u64);
        if !complete(&path) {
            let _ = fs::remove_file(&path); // a link to a file that is gone
            if complete(&blob) {
                // A new version of the repository, with the same file.
                fs::create_dir_all(path.parent().expect("a file in a folder"))?;
                fs::hard_link(&blob, &path).map_err(|e| format!("{}: {e}", path.display()))?;
            } else {
                self.download(&file, &blob, &told)?;
                if let Err(e) = check(&path, &told) {
                    fs::remove_file(&path)?;
                    let _ = fs::remove_file(&blob); // where links need rights it was moved to `path`
                    return Err(format!("{}: {file}: {e}; what was downloaded is removed", self.name).into());
                }
            }
        }
        repo.create_ref(told.commit_hash())?;
        Ok(path)
    }

    /// Goes on with what an earlier download has left, and as long as each try brings something.
    fn download(&self, file: &str, blob: &Path, told: &Metadata) -> Result<()> {
        let part = blob.with_extension("part");
        loop {
            let had = length(&part).unwrap_or(0);
            if had >= told.size() as u64 {
                fs::remove_file(&part)?; // there is no rest to ask for
            }
            match self.api.repo(self.repo.clone()).download_with_progress(file, Bar::new()) {
                Ok(_) => return Ok(()),
                Err(ApiError::IoError(_)) if length(&part) > Some(had) => (),
                Err(e) => return Err(self.error(e)),
            }
        }
    }

    fn only_model(&self) -> Result<String> {
        let files = self.api.repo(self.repo.clone()).info().map_err(|e| self.error(e))?.siblings;
        let mut models: Vec<_> =
            files.into_iter().map(|f| f.rfilename).filter(|f| ends(f, &MODELS)).collect();
        if models.len() == 1 && is_plain(&models[0]) {
            return Ok(models.remove(0));
        }
        let found = if models.is_empty() { "none".into() } else { models.join(", ") };
        Err(format!("{0}: expected one model, found {found}; {0}:FILE names one", self.name).into())
    }

    fn error(&self, e: ApiError) -> Box<dyn std::error::Error> {
        let what = match e {
            ApiError::RequestError(e) => match *e {
                ureq::Error::StatusCode(code @ (401 | 403)) => {
                    format!("status {code}: there is no such model, or it takes a token, in HF_TOKEN")
                }
                ureq::Error::StatusCode(404) => "status 404: there is no such file".into(),
                ureq::Error::StatusCode(code) => format!("status {code}"),
                e => e.to_string(),
            },
            e => e.to_string(),
        };
        self.says(what)
    }

    fn says(&self, what: String) -> Box<dyn std::error::Error> {
        format!("{}: {}: {what}", self.name, self.endpoint).into()
    }
}

/// The bar of a download.
struct Bar(ProgressBar);

impl Bar {
    fn new() -> Self {
        let style = "{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {msg}";
        let style = ProgressStyle::with_template(style).expect("the template is valid");
        Self(ProgressBar::new(0).with_style(style))
    }
}

impl hf_hub::api::Progress for Bar {
    fn init(&mut self, size: usize, file: &str) {
        self.0.set_length(size as u64);
        self.0.reset();
        self.0.set_message(file.to_owned());
    }

    fn update(&mut self, more: usize) {
        self.0.inc(more as u64);
    }

    fn finish(&mut self) {
        self.0.finish_and_clear();
    }
}

fn length(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|m| m.len())
}

/// Holds a file against its size and checksum: the SHA-256 of large files, git's SHA-1 of small ones.
fn check(path: &Path, told: &Metadata) -> Result<()> {
    let size = length(path).unwrap_or(0);
    if size != told.size() as u64 {
        return Err(format!("expected {} bytes, found {size}", told.size()).into());
    }
    let waiting = Progress::spinner("checking");
    let (kind, found) = match told.etag().len() {
        64 => ("SHA-256", digest(Sha256::new(), path)?),
        _ => ("SHA-1", digest(Sha1::new_with_prefix(format!("blob {size}\0")), path)?),
    };
    waiting.finish();
    match found == told.etag() {
        true => Ok(()),
        false => Err(format!("expected the {kind} {}, found {found}", told.etag()).into()),
    }
}

fn digest(mut hash: impl Digest, path: &Path) -> Result<String> {
    let (mut file, mut buffer) = (File::open(path)?, vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect()),
            n => hash.update(&buffer[..n]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_paths() {
        let name = |repo: &str, file: Option<&str>| Name { repo: repo.into(), file: file.map(Into::into) };
        for (text, expected) in [
            ("BlinkDL/rwkv-7", Some(name("BlinkDL/rwkv-7", None))),
            ("a/b:c/d-q4_k.gguf", Some(name("a/b", Some("c/d-q4_k.gguf")))),
            ("model.gguf", None),
            ("/a/b", None),
            ("./a", None),
            ("a/b/c", None),
            ("a/b:../c", None),
            ("a/b:/c", None),
            ("a/b:c?d", None),
            ("C:\\a/b", None),
            ("", None),
        ] {
            assert_eq!(text.parse().ok(), expected, "{text}");
        }
        for path in ["absent/model.gguf", "absent/vocab.txt", "src", "Cargo.toml", "../a"] {
            assert_eq!(local(Path::new(path)).unwrap(), Path::new(path));
        }
    }
}
