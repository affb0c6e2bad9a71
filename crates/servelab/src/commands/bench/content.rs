//! What `servelab bench` sends, as a dataset.

use servelab_core::workload::{
    ConversationSpec, ConversationSynth, DatasetSpec, FileFormat, FileSpec, Spread, SynthSpec, TraceSpec,
};

use super::args::BenchArgs;
use crate::error::CommandError;

/// The dataset that the arguments describe, checked.
pub(super) fn dataset(args: &BenchArgs) -> Result<DatasetSpec, CommandError> {
    let file = |path: String| FileSpec { path, format: FileFormat::default(), output_tokens: args.output_tokens };
    let spec = if let Some(path) = &args.dataset {
        DatasetSpec::File(file(path.to_string_lossy().into_owned()))
    } else if let Some(path) = &args.replay {
        DatasetSpec::Trace(TraceSpec {
            from_s: args.from,
            to_s: args.to,
            max_input_tokens: args.max_input_tokens,
            seed: args.seed,
            ..TraceSpec::new(path.to_string_lossy())
        })
    } else if let Some(text) = &args.conversations {
        let mut talks = if text.contains('=') {
            ConversationSpec::generated(conversation_synth(text)?)
        } else {
            ConversationSpec::from_file(file(text.clone()))
        };
        talks.think_s = args.turn_think.filter(|think| think.mean_s() > 0.0);
        talks.seed = args.seed;
        DatasetSpec::Conversations(talks)
    } else {
        let (input, output) = (args.input_tokens.unwrap_or(1), args.output_tokens.unwrap_or(1));
        let mut synth = SynthSpec::exact(args.requests.unwrap_or(100), input, output);
        synth.seed = args.seed;
        DatasetSpec::Synth(synth)
    };
    spec.validate().map_err(|problem| CommandError::usage(problem.to_string()))?;
    Ok(spec)
}

/// `turns=4,user=100,output=200,system=500,prompts=3`; turns, user and output may be ranges such as `2-8`.
fn conversation_synth(text: &str) -> Result<ConversationSynth, CommandError> {
    let bad = |why: String| {
        CommandError::usage(format!("`--conversations {text}`: {why}"))
            .hint("write `turns=4,user=100,output=200`, with `system=500` and `prompts=3` if you like, or name a file")
    };
    let number = |digits: &str| {
        let digits = digits.trim();
        digits.parse::<u32>().map_err(|_| bad(format!("`{digits}` is no whole number")))
    };
    let spread = |value: &str| match value.split_once('-') {
        None => number(value).map(Spread::Fixed),
        Some((min, max)) => Ok(Spread::Uniform { min: number(min)?, max: number(max)? }),
    };
    let (mut turns, mut user, mut output) = (None, None, None);
    let (mut system_tokens, mut system_prompts) = (None, 1);
    for part in text.split(',') {
        let (key, value) = part.split_once('=').ok_or_else(|| bad(format!("`{part}` has no `=`")))?;
        match key.trim() {
            "turns" => turns = Some(spread(value)?),
            "user" => user = Some(spread(value)?),
            "output" => output = Some(spread(value)?),
            "system" => system_tokens = Some(number(value)?),
            "prompts" => system_prompts = number(value)?,
            other => return Err(bad(format!("there is no `{other}`"))),
        }
    }
    let missing = |key: &str| bad(format!("`{key}=` is missing"));
    Ok(ConversationSynth {
        turns: turns.ok_or_else(|| missing("turns"))?,
        user_tokens: user.ok_or_else(|| missing("user"))?,
        output_tokens: output.ok_or_else(|| missing("output"))?,
        system_tokens,
        system_prompts,
        ..ConversationSynth::exact(1, 1, 1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversations_in_a_few_words() {
        let synth = conversation_synth("turns=2-8,user=100,output=50,system=500,prompts=3").unwrap();
        assert_eq!(synth.turns, Spread::Uniform { min: 2, max: 8 });
        assert_eq!((synth.user_tokens, synth.output_tokens), (Spread::Fixed(100), Spread::Fixed(50)));
        assert_eq!((synth.system_tokens, synth.system_prompts), (Some(500), 3));
        for (text, part) in [
            ("turns=2,user=5", "`output=` is missing"),
            ("turns=x,user=5,output=5", "`x` is no whole number"),
            ("turns=2,user=5,output=5,systems=5", "there is no `systems`"),
            ("turns=2,user", "`user` has no `=`"),
        ] {
            let error = conversation_synth(text).unwrap_err().text();
            assert!(error.contains(part), "{error}");
        }
    }
}
