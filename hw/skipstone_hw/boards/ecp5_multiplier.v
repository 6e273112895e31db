// How Yosys builds the array's products (a signed operand times at most five signed bits) from carry
// chains: 116 LUTs for 12 by 5 bits, where its own ways take 150 to 280. The wires are kept, or the sums
// would be merged into one tree of compressors.
(* techmap_celltype = "$mul" *)
module _array_multiplier (A, B, Y);
    parameter A_SIGNED = 1;
    parameter B_SIGNED = 1;
    parameter A_WIDTH = 12;
    parameter B_WIDTH = 5;
    parameter Y_WIDTH = 17;
    input [A_WIDTH-1:0] A;
    input [B_WIDTH-1:0] B;
    output [Y_WIDTH-1:0] Y;

    wire _TECHMAP_FAIL_ = !A_SIGNED || !B_SIGNED || B_WIDTH < 2 || B_WIDTH > 5;
    wire [4:0] b = {{5{B[B_WIDTH-1]}}, B};
    (* keep *) wire [A_WIDTH+1:0] low =
        $signed({A_WIDTH{b[0]}} & A) + $signed({{A_WIDTH{b[1]}} & A, 1'b0});
    (* keep *) wire [A_WIDTH+1:0] high =
        $signed({A_WIDTH{b[2]}} & A) + $signed({{A_WIDTH{b[3]}} & A, 1'b0});
    (* keep *) wire [A_WIDTH+3:0] both = $signed(low) + $signed({high, 2'b0});
    assign Y = $signed(both) - $signed({{A_WIDTH{b[4]}} & A, 4'b0});
endmodule
