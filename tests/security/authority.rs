//! An authority that issues certificates for tests.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};

pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    fn issue(&self, params: &CertificateParams) -> Pair {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Pair { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    /// For the server.
    pub fn server(&self) -> Pair {
        self.issue(&CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap())
    }

    /// For the server, in 2020.
    pub fn expired_server(&self) -> Pair {
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.not_after = date_time_ymd(2020, 2, 2);
        self.issue(&params)
    }

    /// For the server, in a thousand years.
    pub fn early_server(&self) -> Pair {
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.not_before = date_time_ymd(3026, 2, 2);
        self.issue(&params)
    }

    /// For a client with these names.
    pub fn client(&self, names: &[SanType]) -> Pair {
        self.issue(&Self::client_params(names))
    }

    /// For a client, until a time in the near future.
    pub fn client_until(&self, names: &[SanType], seconds: i64) -> Pair {
        let mut params = Self::client_params(names);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let since_1970 = i64::try_from(now.as_secs()).unwrap() + seconds;
        params.not_after = date_time_ymd(1970, 1, 1).replace_nanosecond(0).unwrap()
            + std::time::Duration::from_secs(u64::try_from(since_1970).unwrap());
        self.issue(&params)
    }

    fn client_params(names: &[SanType]) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names.to_vec();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params
    }
}

pub fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

pub fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().unwrap())
}

pub fn mail(text: &str) -> SanType {
    SanType::Rfc822Name(text.try_into().unwrap())
}
