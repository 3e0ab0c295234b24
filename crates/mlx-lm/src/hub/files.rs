//! Which files of a repository loading needs.

/// The names to fetch for a model in safetensors, weights first and the configuration last, so
/// that a snapshot with a configuration is a whole one.
pub(super) fn needed(names: &[String]) -> Vec<String> {
    let weights: Vec<&String> = names.iter().filter(|name| is_weight(name)).collect();
    // Some repositories repeat the weights in their makers' own layout under other names.
    let standard = weights
        .iter()
        .any(|name| name.starts_with("model") && !name.contains('/'));
    let chosen = weights
        .into_iter()
        .filter(|name| !standard || name.starts_with("model") || name.contains('/'));
    let mut needed: Vec<String> = chosen.cloned().collect();
    needed.extend(
        names
            .iter()
            .filter(|name| is_text(name) && *name != "config.json")
            .cloned(),
    );
    needed.extend(names.iter().filter(|name| *name == "config.json").cloned());
    needed
}

/// The GGUF files among the names.
pub(super) fn ggufs(names: &[String]) -> Vec<String> {
    let mut ggufs: Vec<String> = names
        .iter()
        .filter(|name| name.to_lowercase().ends_with(".gguf"))
        .cloned()
        .collect();
    ggufs.sort();
    ggufs
}

/// Weights at the top, or those of a further layer of an embedding model (`2_Dense/…`).
pub(super) fn is_weight(name: &str) -> bool {
    let numbered = |folder: &str| folder.starts_with(|c: char| c.is_ascii_digit());
    name.ends_with(".safetensors")
        && match name.split_once('/') {
            None => true,
            Some((folder, file)) => numbered(folder) && !file.contains('/'),
        }
}

fn is_text(name: &str) -> bool {
    const ENDS: [&str; 6] = [".json", ".jinja", ".txt", ".model", ".tiktoken", ".tekken"];
    let depth = name.matches('/').count();
    let ends = ENDS.iter().any(|end| name.ends_with(end));
    // Folders with such names hold other formats of the same weights.
    let foreign = [
        "onnx/",
        "openvino/",
        "original/",
        "runs/",
        "coreml/",
        "gguf/",
    ];
    depth <= 1 && ends && !foreign.iter().any(|folder| name.starts_with(folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn only_what_loading_needs_and_the_configuration_last() {
        let all = names(
            "README.md config.json model-00001-of-00002.safetensors model-00002-of-00002.safetensors \
             consolidated.safetensors pytorch_model.bin tokenizer.json onnx/config.json original/params.json \
             additional_chat_templates/tool.jinja model.safetensors.index.json x.gguf",
        );
        assert_eq!(
            needed(&all),
            names(
                "model-00001-of-00002.safetensors model-00002-of-00002.safetensors tokenizer.json \
                 additional_chat_templates/tool.jinja model.safetensors.index.json config.json"
            )
        );
        assert_eq!(ggufs(&all), ["x.gguf"]);
    }

    #[test]
    fn other_names_of_weights_and_further_layers_count() {
        let all = names(
            "weights.00.safetensors 2_Dense/model.safetensors 2_Dense/config.json config.json",
        );
        assert_eq!(needed(&all).len(), 4);
    }
}
