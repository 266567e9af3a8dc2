//! Asking without a server: each round is a run of its own, with its state in the round's folder.

use std::path::Path;

use anyhow::bail;
use overnight_domain::batch::{BatchOptions, Order};

use super::super::config::RunOptions;
use super::super::run::{Answered, FileRun, Shown, answer_all, on_a_node};
use super::super::screen::Screen;
use super::super::serve::start_logging;
use super::place::{Asked, Served, only_model};
use crate::classify::{Labels, Round, Sent};
use crate::config::Environment;
use crate::one_batch::Targets;
use crate::run::{EndAtSignal, Node};

pub(super) struct Here<'a> {
    environment: &'a Environment,
    options: &'a RunOptions,
    output: &'a Path,
    labels: &'a Labels,
    screen: Screen,
    /// Between rounds, while documents are read. The first round has not begun to listen for itself.
    between: Option<EndAtSignal>,
}

impl<'a> Here<'a> {
    pub(super) fn new(
        environment: &'a Environment,
        options: &'a RunOptions,
        output: &'a Path,
        labels: &'a Labels,
        screen: Screen,
    ) -> anyhow::Result<Self> {
        let (_, log) = options.clone().load_for_run(environment, Path::new(""))?;
        start_logging(log.as_deref().unwrap_or("warn"))?;
        Ok(Self { environment, options, output, labels, screen, between: None })
    }

    pub(super) fn ask(&mut self, round: &mut Round, model: Option<&str>) -> anyhow::Result<Asked> {
        let between = self.between.take();
        let asked = self.run(round, model, between)?;
        self.between = Some(EndAtSignal::new()?);
        Ok(asked)
    }

    fn run(
        &self,
        round: &mut Round,
        model: Option<&str>,
        between: Option<EndAtSignal>,
    ) -> anyhow::Result<Asked> {
        let folder = round.run_folder();
        let (config, _) = self.options.clone().load_for_run(self.environment, &folder)?;
        let targets = Targets { input: round.requests(), output: round.results(), errors: None };
        let mut options = BatchOptions {
            priority: 0,
            order: Order::Prefix,
            attempts_max: config.dispatch.attempts_max,
            timeout: None,
            hard_expiry: false,
            large: true,
            model: None,
            output_ttl: None,
        };
        let state = round.folder().to_owned();
        let shown = Shown { output: self.output, folder: &state };
        let answered = on_a_node(config, shown, async |node, announcer| {
            if round.sent.is_none() {
                let model = match self.chosen(&node, model) {
                    Ok(model) => model,
                    Err(error) => {
                        node.ctx.stop.cancel();
                        node.finish().await?;
                        return Err(error);
                    }
                };
                round.save(Sent { model, server: None, file: None, batch: None })?;
            }
            options.model = round.model().map(str::to_owned);
            // The run listens for itself, and ends in good order.
            drop(between);
            let run = FileRun { targets: &targets, options, folder: &folder, shown };
            answer_all(node, announcer, run, self.screen).await
        })?;
        match answered {
            Answered::All(_) => Ok(Asked::All),
            Answered::Interrupted => Ok(Asked::Interrupted),
            Answered::Refused(errors) => {
                Ok(Asked::refused(errors.iter().map(|error| error.code.as_str())))
            }
        }
    }

    fn chosen(&self, node: &Node, named: Option<&str>) -> anyhow::Result<String> {
        if let Some(model) = named {
            return Ok(model.to_owned());
        }
        let endpoints = &node.ctx.endpoints;
        let served = endpoints
            .models()
            .into_iter()
            .map(|model| Served { endpoint: endpoints.owner_of(&model).unwrap_or_default(), model });
        let served: Vec<Served> = served.collect();
        match endpoints.why_none_is_up() {
            Some(why) if served.is_empty() => bail!(
                "no engine is there to say which models it serves: {why}; start it, or name the model with --model \
                 to wait for it"
            ),
            _ => only_model(&served, self.labels),
        }
    }
}
