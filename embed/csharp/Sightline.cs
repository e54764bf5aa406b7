// Sightline in C#: explain a picture with one ONNX file of `sightline export --single-file --uint8`.
// Needs the NuGet package Microsoft.ML.OnnxRuntime (or .Gpu, .DirectML), and nothing else. Not compiled in our CI.
using System.Text.Json;
using Microsoft.ML.OnnxRuntime;

namespace Sightline;

/// <summary>Why a network gave a class its score. The map is Height × Width, row after row, in [0, 1].</summary>
public sealed record Explanation(long Target, string Label, float Score, float[] Logits, float[] Saliency,
                                 int Width, int Height, long Passes);

/// <summary>One open file. Explain may be called from several threads at once.</summary>
public sealed class Explainer : IDisposable
{
    private readonly InferenceSession session;
    private readonly string[] labels;
    public int Width { get; }
    public int Height { get; }
    public int Channels { get; }

    public Explainer(string file, SessionOptions? options = null)
    {
        session = options is null ? new InferenceSession(file) : new InferenceSession(file, options);
        var facts = session.ModelMetadata.CustomMetadataMap;
        if (!facts.TryGetValue("sightline.single_file", out var version) || version != "1")
            throw new ArgumentException($"{file} is no file of 'sightline export --single-file' of version 1: export it again.");
        if (facts["sightline.pixels"] != "uint8")
            throw new ArgumentException($"{file} takes preprocessed values: export it with --uint8.");
        labels = JsonSerializer.Deserialize<string[]?>(facts["sightline.labels"]) ?? [];
        var shape = session.InputMetadata["image"].Dimensions;
        (Height, Width, Channels) = (shape[0], shape[1], shape[2]);
    }

    /// <summary>Explains a picture of the network's size: Height × Width × Channels bytes, RGB or grey.</summary>
    /// <param name="target">the class to explain; null: the predicted one</param>
    /// <param name="mu">0 &lt;= mu &lt; 1: maps above this share of the largest gradient are scored; null: the file's own</param>
    public Explanation Explain(byte[] pixels, int width, int height, int? target = null, float? mu = null)
    {
        if (width != Width || height != Height || pixels.Length != Width * Height * Channels)
            throw new ArgumentException($"the picture has {width}×{height} pixels in {pixels.Length} bytes and the network " +
                $"takes {Width}×{Height}×{Channels}: resize it, three bytes a pixel (one in grey), unpadded.");
        var classes = session.OutputMetadata["logits"].Dimensions[^1];
        if (target is { } t && (t < 0 || t >= classes))
            throw new ArgumentOutOfRangeException(nameof(target), t, $"pass 0 to {classes - 1}, or null for the predicted class.");
        if (mu is { } m && !(m >= 0 && m < 1))
            throw new ArgumentOutOfRangeException(nameof(mu), m, "pass a value from 0 to below 1, or null.");
        using var image = OrtValue.CreateTensorValueFromMemory(pixels, [Height, Width, Channels]);
        using var chosen = OrtValue.CreateTensorValueFromMemory(new long[] { target ?? -1 }, [1]);
        using var share = OrtValue.CreateTensorValueFromMemory(new float[] { mu ?? -1 }, [1]);
        using var most = OrtValue.CreateTensorValueFromMemory(new long[] { -1 }, [1]);
        var known = new Dictionary<string, OrtValue> { ["image"] = image, ["target"] = chosen, ["mu"] = share, ["max_passes"] = most };
        if (target is not null && !session.InputMetadata.ContainsKey("target") || mu is not null && !session.InputMetadata.ContainsKey("mu"))
            throw new ArgumentException("the file has no such input: export it with --inputs target,mu.");
        var inputs = session.InputMetadata.Keys.ToDictionary(name => name, name => known[name]);
        using var run = new RunOptions();
        using var found = session.Run(run, inputs, ["logits", "probabilities", "explained", "saliency", "passes"]);
        var explained = found[2].GetTensorDataAsSpan<long>()[0];
        return new Explanation(explained, explained < labels.Length ? labels[explained] : explained.ToString(),
            found[1].GetTensorDataAsSpan<float>()[(int)explained], found[0].GetTensorDataAsSpan<float>().ToArray(),
            found[3].GetTensorDataAsSpan<float>().ToArray(), Width, Height, found[4].GetTensorDataAsSpan<long>()[0]);
    }

    public void Dispose() => session.Dispose();
}
