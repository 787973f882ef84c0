//! `columba health`.

use std::process::ExitCode;

use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::context::Context;
use super::error::Error;

/// Ask whether the server serves; exit status 0 if it does, 1 if not
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  columba health --timeout 1s
  columba health --service columba.v1.PublisherService")]
pub(super) struct HealthArgs {
    /// The service to ask about [default: the server as a whole]
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    service: String,
}

pub(super) async fn run(args: &HealthArgs, context: &Context) -> Result<ExitCode, Error> {
    let mut client = HealthClient::new(context.connect().await?);
    let request = context.request(HealthCheckRequest { service: args.service.clone() });
    let status = client.check(request).await?.into_inner().status();
    let text = match status {
        ServingStatus::Serving => "serving",
        ServingStatus::NotServing => "not serving",
        ServingStatus::Unknown => "unknown",
        ServingStatus::ServiceUnknown => "no such service",
    };
    let item = serde_json::json!({ "service": args.service, "status": status.as_str_name() });
    context.format.sentence(&item, text)?;
    Ok(if status == ServingStatus::Serving { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
