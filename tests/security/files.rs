//! Files that are replaced all at once, as Kubernetes replaces those of a Secret: the names are links
//! into `..data`, which is a link to a directory, and that link is renamed.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use columba::tls::{ClientCertificates, Settings};
use tempfile::TempDir;

use crate::authority::Pair;

pub struct Files {
    dir: TempDir,
    version: usize,
}

impl Files {
    pub fn new(files: &[(&str, &str)]) -> Self {
        let mut new = Self { dir: tempfile::tempdir().unwrap(), version: 0 };
        new.replace(files);
        for (name, _) in files {
            symlink(format!("..data/{name}"), new.path(name)).unwrap();
        }
        new
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn replace(&mut self, files: &[(&str, &str)]) {
        let before = self.path(&format!("..{}", self.version));
        self.version += 1;
        let directory = format!("..{}", self.version);
        fs::create_dir(self.path(&directory)).unwrap();
        for (name, content) in files {
            fs::write(self.path(&directory).join(name), content).unwrap();
        }
        symlink(&directory, self.path("..new")).unwrap();
        fs::rename(self.path("..new"), self.path("..data")).unwrap();
        let _ = fs::remove_dir_all(before);
    }

    /// A server's pair, and the authorities of its clients.
    pub fn tls(pair: &Pair, client_ca: &str) -> Self {
        Self::new(&tls_files(pair, client_ca))
    }

    pub fn replace_tls(&mut self, pair: &Pair, client_ca: &str) {
        self.replace(&tls_files(pair, client_ca));
    }

    /// Settings for TLS without client certificates.
    pub fn server_only(&self) -> Settings {
        Settings {
            certificate: self.path("tls.crt"),
            key: self.path("tls.key"),
            client_ca: None,
            client_certificate: ClientCertificates::Required,
        }
    }

    /// Settings for TLS with client certificates.
    pub fn mutual(&self, client_certificate: ClientCertificates) -> Settings {
        Settings { client_ca: Some(self.path("ca.crt")), client_certificate, ..self.server_only() }
    }
}

fn tls_files<'a>(pair: &'a Pair, client_ca: &'a str) -> [(&'static str, &'a str); 3] {
    [("tls.crt", &pair.certificate), ("tls.key", &pair.key), ("ca.crt", client_ca)]
}
